package config

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with a configuration, and what to do.
type Problem struct {
	File string
	Line int    // from 1; 0 if it concerns no one line
	Key  string // where in the document: "logs[0].url"
	Text string
}

func (p Problem) String() string {
	s := p.File + ":"
	if p.Line > 0 {
		s += fmt.Sprintf("%d:", p.Line)
	}
	if p.Key != "" {
		s += " " + p.Key + ":"
	}
	return s + " " + p.Text
}

// Error is all that is wrong with a configuration.
type Error struct {
	Problems []Problem
	// Generation is that of the [Config] that it would have been; "" if it could not
	// be read.
	Generation string
	// Alerts is where alerts were to go, if that can be told: whom to tell.
	Alerts Alerts
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// split is the file and line of a "file:line".
func split(where string) (file string, line int) {
	i := strings.LastIndex(where, ":")
	if i < 0 {
		return where, 0
	}
	_, _ = fmt.Sscan(where[i+1:], &line) // we wrote it
	return where[:i], line
}
