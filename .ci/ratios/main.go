// Ratios reads mxload's JSON lines and prints the median of each figure of the appliance and of the floor, with their
// ratio, as a table of Markdown.
//
//	go run ./.ci/ratios <figures
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// result is what is read of a line of mxload.
type result struct {
	Scenario string
	Label    string // "appliance" or "floor", then perhaps a variant: "floor max"
	Figures  map[string]float64
	Failures int64 `json:"failures_total"`
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	figures := make(map[string]map[string][]float64) // by scenario and figure, then by server
	for lines := json.NewDecoder(in); ; {
		var r result
		err := lines.Decode(&r)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		add(figures, r)
	}
	fmt.Fprintln(out, "| scenario | figure | appliance | floor | ratio |\n|---|---|---|---|---|")
	for _, name := range slices.Sorted(maps.Keys(figures)) {
		printRow(out, name, figures[name])
	}
	return nil
}

func add(figures map[string]map[string][]float64, r result) {
	server, variant, _ := strings.Cut(r.Label, " ")
	scenario := strings.TrimSpace(r.Scenario + " " + variant)
	r.Figures["failures"] = float64(r.Failures)
	for figure, value := range r.Figures {
		name := scenario + " | " + figure
		if figures[name] == nil {
			figures[name] = make(map[string][]float64)
		}
		figures[name][server] = append(figures[name][server], value)
	}
}

func printRow(out io.Writer, name string, values map[string][]float64) {
	ours, floor := values["appliance"], values["floor"]
	if len(ours) == 0 {
		return
	}
	if len(floor) == 0 || median(floor) == 0 {
		fmt.Fprintf(out, "| %s | %.4g | | |\n", name, median(ours))
		return
	}
	fmt.Fprintf(out, "| %s | %.4g | %.4g | %.2f |\n", name, median(ours), median(floor), median(ours)/median(floor))
}

func median(values []float64) float64 {
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 0 {
		return (values[middle-1] + values[middle]) / 2
	}
	return values[middle]
}
