// What a program on a Go library shows of a connection: client gorilla|coder URL TOKEN. See
// clients/README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"

	coder "github.com/coder/websocket"
	"github.com/gorilla/websocket"
)

func main() {
	library, url, token := os.Args[1], os.Args[2], os.Args[3]
	header := http.Header{"Authorization": {"Bearer " + token}}
	shown := ""
	switch library {
	case "gorilla":
		shown = gorilla(url, header)
	case "coder":
		shown = coderWebsocket(url, header)
	}
	fmt.Println("shown", shown)
}

func gorilla(url string, header http.Header) string {
	c, r, err := websocket.DefaultDialer.Dial(url, header)
	if err != nil {
		return refused("ErrBadHandshake", errors.Is(err, websocket.ErrBadHandshake), r, err)
	}
	defer c.Close()
	fmt.Println("open")
	for {
		if _, _, err = c.ReadMessage(); err != nil {
			break
		}
	}
	if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
		return fmt.Sprintf("`*CloseError` %d %q", closed.Code, closed.Text)
	}
	return fmt.Sprintf("`%T` %v", err, err)
}

func coderWebsocket(url string, header http.Header) string {
	ctx := context.Background()
	c, r, err := coder.Dial(ctx, url, &coder.DialOptions{HTTPHeader: header})
	if err != nil {
		return refused("Dial", true, r, err)
	}
	defer c.CloseNow()
	fmt.Println("open")
	for {
		if _, _, err = c.Read(ctx); err != nil {
			break
		}
	}
	if closed, ok := errors.AsType[coder.CloseError](err); ok {
		return fmt.Sprintf("`CloseError` %d %q", closed.Code, closed.Reason)
	}
	return fmt.Sprintf("`%T` %v", err, err)
}

var word = regexp.MustCompile(`error_description="([^"]*)"`)

// refused is what a response that comes with the error says.
func refused(name string, known bool, r *http.Response, err error) string {
	if !known || r == nil {
		return err.Error()
	}
	said := word.FindStringSubmatch(r.Header.Get("WWW-Authenticate"))
	return fmt.Sprintf("`%s`, response %d %s", name, r.StatusCode, said[1])
}
