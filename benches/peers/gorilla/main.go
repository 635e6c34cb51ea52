// The plain protocol as most people would write it in Go: gorilla/websocket, a goroutine to read and one to write for each
// connection, a channel between them, one map with a lock. Run with the port to listen on: gorilla 1234
package main

import (
	"bytes"
	"log"
	"net/http"
	"os"
	"sync"

	"github.com/gorilla/websocket"
)

// The channel of a connection has room for this many; a sender waits for more, as in most such programs.
const outboxMax = 256

type message struct {
	kind    int
	payload []byte
}

type user struct {
	outbox chan message
	gone   chan struct{}
}

var (
	lock     sync.RWMutex
	users    = map[string]*user{}
	upgrader = websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
)

func (to *user) send(due message) {
	select {
	case to.outbox <- due:
	case <-to.gone:
	}
}

func write(socket *websocket.Conn, to *user) {
	for {
		select {
		case due := <-to.outbox:
			if socket.WriteMessage(due.kind, due.payload) != nil {
				socket.Close() // which ends the reader, too
				return
			}
		case <-to.gone:
			return
		}
	}
}

func serve(answer http.ResponseWriter, request *http.Request) {
	socket, err := upgrader.Upgrade(answer, request, nil)
	if err != nil {
		return
	}
	defer socket.Close()
	_, first, err := socket.ReadMessage()
	if err != nil {
		return
	}
	uid, self := string(first), &user{make(chan message, outboxMax), make(chan struct{})}
	go write(socket, self)
	self.send(message{websocket.TextMessage, []byte("Login realizado com sucesso, seu uid é " + uid)})
	lock.Lock()
	users[uid] = self
	lock.Unlock()
	defer func() {
		lock.Lock()
		if users[uid] == self {
			delete(users, uid)
		}
		lock.Unlock()
		close(self.gone)
	}()
	for {
		kind, data, err := socket.ReadMessage()
		if err != nil {
			return
		}
		to, payload, found := bytes.Cut(data, []byte(":"))
		if !found {
			self.send(message{websocket.TextMessage, []byte("error: expected uid:message")})
			continue
		}
		due := message{kind, payload}
		if string(to) != "all" {
			lock.RLock()
			other := users[string(to)]
			lock.RUnlock()
			if other != nil {
				other.send(due)
			}
			continue
		}
		lock.RLock()
		others := make([]*user, 0, len(users))
		for _, other := range users {
			others = append(others, other)
		}
		lock.RUnlock()
		for _, other := range others {
			other.send(due)
		}
	}
}

func main() {
	port := "1234"
	if len(os.Args) > 1 {
		port = os.Args[1]
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+port, http.HandlerFunc(serve)))
}
