package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// programFolder is where build puts the appliance; TestMain sets it once.
var programFolder string

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	folder, err := os.MkdirTemp("", "appliance-*")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	programFolder = folder
	return m.Run()
}

// build compiles the appliance once for all tests and returns the path of the program.
var build = sync.OnceValues(func() (string, error) {
	program := filepath.Join(programFolder, "appliance")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	text, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, text)
	}
	return program, nil
})

// process is a running appliance.
type process struct {
	url    string
	output *output
	cmd    *exec.Cmd
	ended  chan struct{} // closed when it has ended
}

// launch starts the appliance in folder and does not wait until it is ready.
func launch(t testing.TB, folder string, flags ...string) *process {
	t.Helper()
	program, err := build()
	require.NoError(t, err)
	p := &process{output: new(output), ended: make(chan struct{})}
	p.cmd = exec.Command(program, flags...)
	p.cmd.Dir = folder
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.ended)
		p.cmd.Wait() // its status is in ProcessState
	}()
	t.Cleanup(p.kill)
	return p
}

// started starts the appliance on the data in folder and returns when it answers.
func started(t testing.TB, folder, addr string, flags ...string) *process {
	t.Helper()
	p := launch(t, folder, address(addr, flags)...)
	p.url = "http://" + addr
	p.waitReady(t)
	return p
}

// address adds to flags what started needs.
func address(addr string, flags []string) []string {
	return append([]string{"--data-dir", "data", "--client-addr", addr}, flags...)
}

const readyWithin = 20 * time.Second // far more than it takes: machines that run tests are busy

func (p *process) waitReady(t testing.TB) {
	t.Helper()
	for until := time.Now().Add(readyWithin); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		select {
		case <-p.ended:
			require.FailNow(t, "the appliance ended", "%v\n%s", p.cmd.ProcessState, p.output)
		default:
		}
		if answers(p.url) {
			return
		}
	}
	require.FailNow(t, "the appliance is not ready", "after %v:\n%s", readyWithin, p.output)
}

func answers(url string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "GET", url+"/_matrix/client/versions", nil)
	if err != nil {
		return false
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return err == nil && answer.StatusCode == 200
}

// kill is kill -9, and returns when the process is gone.
func (p *process) kill() {
	p.cmd.Process.Kill() // an error says that it has ended
	<-p.ended
}

// freeAddr is a loopback address that nobody listens on just now, of a port that no outgoing connection is given: it has
// to be free again after each kill.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	require.FailNow(t, "no free port")
	return ""
}

// output gathers what a process prints.
type output struct {
	mu   sync.Mutex // guards the following
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
