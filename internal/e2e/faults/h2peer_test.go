package faults

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// framePeer is a server's end of an HTTP/2 connection that a script holds, frame by frame.
type framePeer struct {
	*peer
	*http2.Framer
	stream uint32 // of the latest request
}

// framing has a script do this with each connection, after its settings.
func framing(turns ...func(*framePeer)) script { return framingWith(nil, turns...) }

func framingWith(settings []http2.Setting, turns ...func(*framePeer)) script {
	return holding(func(p *peer) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(p.reader, preface); err != nil {
			return
		}
		f := &framePeer{peer: p, Framer: http2.NewFramer(p, p.reader)}
		f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		_ = f.WriteSettings(settings...)
		turns[min(p.n, len(turns))-1](f)
	})
}

// whole makes hearPart read to the end.
const whole = 1 << 30

// hearPart reads a request up to so much of its body, or its end.
func (f *framePeer) hearPart(size int) {
	var v *visit
	for read := 0; v == nil || read < size; {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			f.stream = frame.StreamID
			v = f.at.visitedBy(nil, requestOf(frame))
			defer v.end()
			if frame.StreamEnded() {
				v.body.note(nil, io.EOF)
				return
			}
		case *http2.DataFrame:
			if v == nil || frame.StreamID != f.stream {
				continue // of a request that is over
			}
			v.body.note(frame.Data(), nil)
			if frame.StreamEnded() {
				v.body.note(nil, io.EOF)
				return
			}
			if n := len(frame.Data()); n > 0 {
				read += n
				_ = f.WriteWindowUpdate(0, uint32(n))
				_ = f.WriteWindowUpdate(f.stream, uint32(n))
			}
		}
	}
}

func requestOf(frame *http2.MetaHeadersFrame) *http.Request {
	r, _ := http.NewRequest(frame.PseudoValue("method"), "http://"+frame.PseudoValue("authority")+frame.PseudoValue("path"), nil)
	for _, field := range frame.RegularFields() {
		r.Header.Add(field.Name, field.Value)
	}
	r.Body = io.NopCloser(strings.NewReader(""))
	return r
}

// answer sends the header of an answer.
func (f *framePeer) answer(status int, end bool, fields ...string) {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	_ = encoder.WriteField(hpack.HeaderField{Name: ":status", Value: strconv.Itoa(status)})
	for i := 0; i < len(fields); i += 2 {
		_ = encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: f.stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
}

// accept answers with a text.
func (f *framePeer) accept(text string) {
	f.answer(http.StatusOK, false)
	_ = f.WriteData(f.stream, true, []byte(text))
}

func (f *framePeer) reject() {
	f.answer(http.StatusUnauthorized, true, "www-authenticate", `Bearer error="invalid_token"`)
}

// stopSending ends the request's side of the latest stream (RFC 9113 §8.1).
func (f *framePeer) stopSending() { _ = f.WriteRSTStream(f.stream, http2.ErrCodeNo) }
