package faults

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// What an upstream does to HTTP/2 connections, frame by frame.
func TestUpstreamFrames(t *testing.T) {
	const overH2C = "transport http {\nversions h2c\n}"
	const size = 60_000
	cured := gotFirst + then + gotRenewed
	twice60k := fmt.Sprintf("POST / token-1 %d bytes | POST / token-2 %[1]d bytes", size)
	once60k := fmt.Sprintf("POST / token-1 %d bytes", size)
	partly := fmt.Sprintf("POST / token-1 in part | POST / token-2 %d bytes", size)
	broken := func(client, upstream string) want { return want{client, upstream, gotFirst, once, nothing} }
	renewed := func(client, upstream string) want { return want{client, upstream, cured, twice, nothing} }
	// second hears another request on the same connection, and accepts it.
	second := func(f *framePeer) {
		f.hearPart(whole)
		f.accept("accepted")
		f.stay()
	}
	rows := []row{
		{name: "stream reset at once", upstream: framing(func(f *framePeer) {
			f.hearPart(0)
			_ = f.WriteRSTStream(f.stream, http2.ErrCodeInternal)
			f.stay()
		}), ask: get, want: broken("502", "GET / token-1")},
		{name: "stream refused", upstream: framing(func(f *framePeer) {
			f.hearPart(0)
			_ = f.WriteRSTStream(f.stream, http2.ErrCodeRefusedStream)
			second(f)
		}), ask: get, want: broken("200 accepted", "GET / token-1 | GET / token-1")}, // as nothing was done
		{name: "stream reset in the body", racy: true, upstream: framing(func(f *framePeer) {
			f.hearPart(9_000)
			_ = f.WriteRSTStream(f.stream, http2.ErrCodeCancel)
			f.stay()
		}), ask: post(size), want: broken("502", "POST / token-1 in part")},
		{name: "stream reset after the header", upstream: framing(func(f *framePeer) {
			f.hearPart(whole)
			f.answer(200, false)
			_ = f.WriteRSTStream(f.stream, http2.ErrCodeInternal)
			f.stay()
		}), ask: post(size), want: broken(headerOnly(), once60k)},
		{name: "stream reset in the answer", upstream: framing(func(f *framePeer) {
			f.hearPart(whole)
			f.answer(200, false)
			_ = f.WriteData(f.stream, false, []byte(numberedText(9_000)))
			_ = f.WriteRSTStream(f.stream, http2.ErrCodeInternal)
			f.stay()
		}), ask: post(size), want: broken("200 in part", once60k)},
		{name: "accepts, and wants no more of the body", racy: true, upstream: framing(func(f *framePeer) {
			f.hearPart(9_000)
			f.accept("enough")
			f.stopSending()
			f.stay()
		}), ask: post(size), want: broken("200 enough", "POST / token-1 in part")},
		{name: "rejects after the body", upstream: framing(func(f *framePeer) {
			f.hearPart(whole)
			f.reject()
			second(f)
		}), ask: post(size), want: renewed("200 accepted", twice60k)},
		{name: "rejects, and wants no more of the body", racy: true, upstream: framing(func(f *framePeer) {
			f.hearPart(9_000)
			f.reject()
			f.stopSending()
			second(f)
		}), ask: post(size), want: renewed("200 accepted", partly)},
		{name: "rejects, and goes away", upstream: framing(func(f *framePeer) {
			f.hearPart(whole)
			f.reject()
			_ = f.WriteGoAway(f.stream, http2.ErrCodeNo, nil)
		}, second), ask: post(size), want: renewed("200 accepted", twice60k)},
		{name: "rejects, and closes the connection", upstream: framing(func(f *framePeer) {
			f.hearPart(whole)
			f.reject()
		}, second), ask: post(size), want: renewed("200 accepted", twice60k)},
		{name: "rejects, and resets the stream", upstream: framing(func(f *framePeer) {
			f.hearPart(whole)
			f.answer(401, false, "www-authenticate", `Bearer error="invalid_token"`)
			_ = f.WriteRSTStream(f.stream, http2.ErrCodeInternal)
			second(f)
		}), ask: post(size), want: renewed("200 accepted", twice60k)},
		{name: "rejects what it gave no room for", racy: true, upstream: framingWith([]http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}, func(f *framePeer) {
			f.hearPart(0)
			f.reject()
			f.stopSending()
			_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
			second(f)
		}), ask: post(size), want: renewed("200 accepted", strings.Replace(partly, "in part", "unread", 1))},
		{name: "goes away in the body, and answers", racy: true, upstream: framing(func(f *framePeer) {
			f.hearPart(9_000)
			_ = f.WriteGoAway(f.stream, http2.ErrCodeNo, nil)
			f.accept("enough")
			f.stopSending()
			f.stay()
		}, second), ask: each(post(size), get), want: broken("200 enough | 200 accepted", "POST / token-1 in part | GET / token-1")},
		{name: "goes away in the body, and has done nothing", racy: true, upstream: framing(func(f *framePeer) {
			f.hearPart(9_000)
			_ = f.WriteGoAway(0, http2.ErrCodeNo, nil)
			f.stay()
		}, second), ask: post(size), want: broken("502", "POST / token-1 in part")},
		{name: "goes away in anger", racy: true, upstream: framing(func(f *framePeer) {
			f.hearPart(9_000)
			_ = f.WriteGoAway(f.stream, http2.ErrCodeEnhanceYourCalm, nil)
		}, second), ask: each(post(size), get), want: broken("502 | 200 accepted", "POST / token-1 in part | GET / token-1")},
		{name: "closes the connection in the body", racy: true, upstream: framing(func(f *framePeer) { f.hearPart(9_000) }, second), ask: each(post(size), get),
			want: broken("502 | 200 accepted", "POST / token-1 in part | GET / token-1")},
		{name: "closes the connection in the answer", upstream: framing(func(f *framePeer) {
			f.hearPart(whole)
			f.answer(200, false)
			_ = f.WriteData(f.stream, false, []byte(numberedText(9_000)))
		}), ask: post(size), want: broken("200 in part", once60k)},
		{name: "answers without a header", upstream: framing(func(f *framePeer) {
			f.hearPart(whole)
			_ = f.WriteData(f.stream, true, []byte("canary"))
			f.stay()
		}), ask: post(size), want: broken("502", once60k)},
		{name: "answers on another stream", upstream: framing(func(f *framePeer) {
			f.hearPart(whole)
			f.stream += 2
			f.accept("canary")
			f.stay()
		}), ask: post(size), want: broken("502", once60k)},
		{name: "answers with a header without an end", upstream: framing(func(f *framePeer) {
			f.hearPart(whole)
			block := []byte("\x40\x08x-canary\x7f\xe1\x7d" + strings.Repeat("c", 16_000)) // a field of 16,096 bytes
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: f.stream, BlockFragment: block[:1]})
			for range 4_000 {
				if f.WriteContinuation(f.stream, false, block) != nil {
					return
				}
			}
		}), ask: post(size), want: broken("502", once60k)},
		{name: "asks a thousand times whether somebody is there", upstream: framing(func(f *framePeer) {
			f.hearPart(whole)
			for range 1_000 {
				_ = f.WritePing(false, [8]byte{})
			}
			f.accept("accepted")
			f.stay()
		}), ask: post(size), want: broken("200 accepted", once60k)},
		{name: "answers with frames of a byte", upstream: framing(func(f *framePeer) {
			f.hearPart(whole)
			f.answer(200, false)
			text := []byte(numberedText(300))
			for i := range text {
				_ = f.WriteData(f.stream, i == len(text)-1, text[i:i+1])
			}
			f.stay()
		}), ask: post(size), want: broken("200 300 bytes", once60k)},
	}
	for i := range rows {
		rows[i].proxy = overH2C
	}
	group{rows: rows}.run(t)
}
