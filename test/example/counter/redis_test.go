package main

import (
	"bufio"
	"strings"
	"testing"
)

func TestReadReply(t *testing.T) {
	for name, tc := range map[string]struct {
		in, want string
		fails    bool
	}{
		"simple":      {in: "+PONG\r\n", want: "PONG"},
		"integer":     {in: ":42\r\n", want: "42"},
		"bulk":        {in: "$5\r\nhello\r\n", want: "hello"},
		"error":       {in: "-ERR no\r\n", fails: true},
		"cut short":   {in: "$5\r\nhe", fails: true},
		"huge bulk":   {in: "$99999999\r\n", fails: true},
		"nothing":     {in: "", fails: true},
		"empty line":  {in: "\r\n", fails: true},
		"other kinds": {in: "*1\r\n", fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readReply(bufio.NewReader(strings.NewReader(tc.in)))
			if (err != nil) != tc.fails || got != tc.want {
				t.Errorf("readReply(%q) = %q, %v; want %q, error %t", tc.in, got, err, tc.want, tc.fails)
			}
		})
	}
}
