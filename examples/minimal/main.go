// Minimal mounts a homeserver beside the other pages of a program.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/media"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

func main() {
	db, err := sqlite.Open("matrix.db")
	check(err)
	server, err := homeserver.New(homeserver.Config{
		ServerName:   "localhost",
		Storage:      db,
		Media:        media.Dir("media"),
		Registration: homeserver.Registration{Mode: homeserver.RegistrationOpen},
	})
	check(err)
	check(server.Start(context.Background()))

	mux := http.NewServeMux()
	server.Mount(mux)
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "My own page.") })
	check(http.ListenAndServe("127.0.0.1:8080", mux))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
