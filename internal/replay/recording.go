package replay

import (
	"bytes"
	"slices"
)

// maxAnnounced bounds how many chunks are prepared for: a client can announce more than it sends.
const maxAnnounced = 64

// recording is what was read of a body, in pieces of memory that are never copied. The tape's lock guards it.
type recording struct {
	chunks []chunk
	few    [2]chunk // the memory of chunks, while that is enough
	size   int64    // of all that was recorded, in bytes
	memory int64    // of what is counted and not freed, in bytes
}

// chunk is a part of a recording. It is empty once it was freed.
type chunk struct {
	data   []byte  // what is recorded in it
	memory *memory // its own; nil if it is not counted
}

// place is where a reader is in a recording. The zero value is its start.
type place struct{ chunk, at int }

// room is how many bytes fit behind what was recorded last.
func (r *recording) room() int {
	if len(r.chunks) == 0 {
		return 0
	}
	last := r.chunks[len(r.chunks)-1]
	return cap(last.data) - len(last.data)
}

// nextSize is how much memory the next chunk takes, in a recording of at most limit bytes.
func (r *recording) nextSize(limit int64, isLengthKnown bool) int {
	if len(r.chunks) == 0 && (limit <= smallMemory || !isLengthKnown) {
		return smallMemory
	}
	return largeMemory
}

// memoryFor returns how much more memory it takes to add n bytes.
func (r *recording) memoryFor(n int, limit int64, isLengthKnown bool) (more int64) {
	n -= r.room()
	if n <= 0 {
		return 0
	}
	first := r.nextSize(limit, isLengthKnown)
	further := max(0, n-first+largeMemory-1) / largeMemory
	return int64(first + further*largeMemory)
}

// add copies bytes to the end of the recording.
func (r *recording) add(data []byte, limit int64, isLengthKnown bool) {
	r.size += int64(len(data))
	for len(data) > 0 {
		if r.room() == 0 {
			r.addChunk(r.nextSize(limit, isLengthKnown), limit, isLengthKnown)
		}
		last := &r.chunks[len(r.chunks)-1]
		n := min(len(data), r.room())
		last.data = append(last.data, data[:n]...)
		data = data[n:]
	}
}

// addChunk makes room for that many bytes.
func (r *recording) addChunk(size int, limit int64, isLengthKnown bool) {
	if r.chunks == nil {
		if r.chunks = r.few[:0]; isLengthKnown && limit > int64(len(r.few)*largeMemory) {
			r.chunks = make([]chunk, 0, min((limit+largeMemory-1)/largeMemory, maxAnnounced))
		}
	}
	m := takeMemory(size)
	r.chunks = append(r.chunks, chunk{data: m.bytes[:0], memory: m})
	r.memory += int64(size)
}

// addUncounted copies bytes to the end of a recording that has no room for them.
func (r *recording) addUncounted(data []byte) {
	r.chunks = append(r.chunks, chunk{data: slices.Clip(bytes.Clone(data))})
	r.size += int64(len(data))
}

// end is the place behind all that was recorded, which is something.
func (r *recording) end() place {
	last := len(r.chunks) - 1
	return place{chunk: last, at: len(r.chunks[last].data)}
}

// read copies what comes next, if there is something.
func (r *recording) read(from *place, p []byte) int {
	if !r.hasMore(from) {
		return 0
	}
	n := copy(p, r.chunks[from.chunk].data[from.at:])
	from.at += n
	return n
}

// hasMore reports whether something comes next. It moves the place on to there.
func (r *recording) hasMore(from *place) bool {
	for ; from.chunk < len(r.chunks); from.chunk, from.at = from.chunk+1, 0 {
		if from.at < len(r.chunks[from.chunk].data) {
			return true
		}
		if from.chunk == len(r.chunks)-1 {
			break
		}
	}
	return false
}

// freeBefore frees the chunks that a reader at this place has behind it, as nobody else needs them.
func (r *recording) freeBefore(reader *place) {
	end := len(r.chunks)
	if r.hasMore(reader) {
		end = reader.chunk
	}
	for i := end - 1; i >= 0 && r.chunks[i].data != nil; i-- {
		m := r.chunks[i].memory
		r.chunks[i] = chunk{}
		if m != nil {
			r.memory -= int64(len(m.bytes))
			m.giveBack()
		}
	}
}
