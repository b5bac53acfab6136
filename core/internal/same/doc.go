// Package same tells quickly that two values are the same, which most are that the
// server compares: an update changes little of an object.
package same
