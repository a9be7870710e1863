// Command independent_reader opens the recorded envelopes of tests/vectors/envelope. It was written from
// pqfl_transport/content/ENVELOPE.md and the standards named there alone, and shares no code with the implementation.
//
//	independent_reader FILE.json
//
// prints one JSON object a vector: its name and either tensors and metadata, or error, the reason of the refusal.
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: independent_reader FILE.json")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var file vectorFile
	if err := json.Unmarshal(text, &file); err != nil {
		return err
	}
	encoder := json.NewEncoder(os.Stdout)
	for _, one := range file.Vectors {
		found, err := file.open(one)
		if err != nil {
			return fmt.Errorf("%s: %w", one.Name, err)
		}
		if err := encoder.Encode(found); err != nil {
			return err
		}
	}
	return nil
}
