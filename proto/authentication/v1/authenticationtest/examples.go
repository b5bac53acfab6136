package authenticationtest

import "keelson.dev/keelson/proto/contracttest"

// ReadExamples reads the examples in a file of YAML: name, token, audiences and user.
func ReadExamples(data []byte) ([]Example, error) {
	return contracttest.ReadExamples[Example](data)
}
