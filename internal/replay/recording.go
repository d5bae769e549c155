package replay

import "sync"

const (
	// smallChunk is the memory of a body that is short, or the first one if its length is not known, in bytes.
	smallChunk = 4 << 10

	// largeChunk is every other piece of memory, in bytes. It is also the most that is read of a body at once, which is
	// no more than a proxy reads: a server can wait until it has filled what it is asked for.
	largeChunk = 32 << 10

	// maxAnnounced bounds how many chunks are prepared for: a client can announce more than it sends.
	maxAnnounced = 64
)

// The memory of recordings that are over.
var (
	smallChunks = sync.Pool{New: func() any { return new([smallChunk]byte) }}
	largeChunks = sync.Pool{New: func() any { return new([largeChunk]byte) }}
)

// recording is what was read of a body, in pieces of memory that are never copied. The tape's lock guards it. But the
// room in its last piece belongs to whoever reads the client's body into it, until that has landed.
type recording struct {
	chunks [][]byte  // each up to where it was filled; nil once it was freed
	few    [2][]byte // the memory of chunks, while that is enough
	size   int64     // of all that was recorded, in bytes
	memory int64     // of what is not freed, in bytes
}

// place is where a reader is in a recording. The zero value is its start.
type place struct{ chunk, at int }

// room returns the memory behind what was recorded last. It is empty if a further chunk is needed.
func (r *recording) room() []byte {
	if len(r.chunks) == 0 {
		return nil
	}
	last := r.chunks[len(r.chunks)-1]
	return last[len(last):cap(last)]
}

// nextChunk returns how much memory the next chunk takes, for a body of which at most that many bytes are recorded.
func (r *recording) nextChunk(limit int64, isLengthKnown bool) int64 {
	if len(r.chunks) == 0 && (limit <= smallChunk || !isLengthKnown) {
		return smallChunk
	}
	return largeChunk
}

// addChunk makes room for that many bytes more, the size of a chunk. limit is that of the recording.
func (r *recording) addChunk(size, limit int64, isLengthKnown bool) {
	if r.chunks == nil {
		if r.chunks = r.few[:0]; isLengthKnown && limit > largeChunk {
			r.chunks = make([][]byte, 0, min(limit/largeChunk+2, maxAnnounced)) // what it needs, and one byte more
		}
	}
	if size == smallChunk {
		r.chunks = append(r.chunks, smallChunks.Get().(*[smallChunk]byte)[:0])
	} else {
		r.chunks = append(r.chunks, largeChunks.Get().(*[largeChunk]byte)[:0])
	}
	r.memory += size
}

// landed adds bytes that were read into the room.
func (r *recording) landed(n int) {
	last := len(r.chunks) - 1
	r.chunks[last] = r.chunks[last][:len(r.chunks[last])+n]
	r.size += int64(n)
}

// read copies what comes next, if there is something.
func (r *recording) read(from *place, p []byte) int {
	if !r.hasMore(from) {
		return 0
	}
	n := copy(p, r.chunks[from.chunk][from.at:])
	from.at += n
	return n
}

// hasMore reports whether something comes next. It moves the place on to there.
func (r *recording) hasMore(from *place) bool {
	for ; from.chunk < len(r.chunks); from.chunk, from.at = from.chunk+1, 0 {
		if from.at < len(r.chunks[from.chunk]) {
			return true
		}
		if from.chunk == len(r.chunks)-1 {
			break
		}
	}
	return false
}

// freeBefore frees the chunks that a reader at this place has behind it, as nobody else needs them. inUse means that
// somebody reads the client's body into the last one.
func (r *recording) freeBefore(reader *place, inUse bool) {
	end := len(r.chunks)
	if r.hasMore(reader) {
		end = reader.chunk
	}
	if inUse {
		end = min(end, len(r.chunks)-1)
	}
	for i := end - 1; i >= 0 && r.chunks[i] != nil; i-- {
		chunk := r.chunks[i]
		r.chunks[i] = nil
		switch cap(chunk) {
		case smallChunk:
			smallChunks.Put((*[smallChunk]byte)(chunk[:smallChunk]))
			r.memory -= smallChunk
		case largeChunk:
			largeChunks.Put((*[largeChunk]byte)(chunk[:largeChunk]))
			r.memory -= largeChunk
		}
	}
}
