package store

import "testing"

func TestDefaultCacheBytes(t *testing.T) {
	for name, test := range map[string]struct{ memory, want int64 }{
		"unknown":   {0, 16 << 20},
		"512 MiB":   {512 << 20, 16 << 20},
		"4 GiB":     {4 << 30, 64 << 20},
		"64 GiB":    {64 << 30, 128 << 20},
		"8 GiB + 1": {8<<30 + 1, 128 << 20},
	} {
		if got := DefaultCacheBytes(test.memory); got != test.want {
			t.Errorf("%s: got %d, want %d", name, got, test.want)
		}
	}
	if memoryBytes() < 64<<20 {
		t.Errorf("this machine is said to have %d bytes", memoryBytes())
	}
}
