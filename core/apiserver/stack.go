package apiserver

import "net/http"

// stackRoom is how much stack a request gets at once. Of a write the decoding, the
// validation and the encoding go that deep.
const stackRoom = 20 << 10

// withStack has the stack of a request's goroutine grow once, while there is next to
// nothing on it. By itself it doubles three or four times, deep in the handlers, and
// each time all frames are copied and their pointers mended: 5 to 8% of a write.
func withStack(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		growStack(false)
		h.ServeHTTP(w, r)
	})
}

// outerRoom is how much stack the goroutine of HTTP/2 gets at once, which reads the
// request and waits for the one that answers it.
const outerRoom = 6 << 10

// withOuterStack is withStack around all filters.
func withOuterStack(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		growOuterStack(false)
		h.ServeHTTP(w, r)
	})
}

// growOuterStack is growStack for outerRoom.
//
//go:noinline
func growOuterStack(never bool) {
	if never {
		var room [outerRoom]byte
		touch(room[:])
	}
}

// growStack makes the goroutine's stack large enough for its own frame, which holds
// stackRoom. Nothing is done with that: never is false.
//
//go:noinline
func growStack(never bool) {
	if never {
		var room [stackRoom]byte
		touch(room[:])
	}
}

//go:noinline
func touch(b []byte) { b[0]++ }
