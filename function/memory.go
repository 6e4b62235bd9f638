package function

import (
	"bytes"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
)

// limitMemory keeps the garbage collector below the container's limit if nobody
// set GOMEMLIMIT: Cloud Run kills an instance that goes beyond, without a signal.
func limitMemory(getenv func(string) string) {
	if getenv("GOMEMLIMIT") != "" {
		return // the runtime has read it
	}
	// cgroup 2, then 1. "max", or absurdly much, is no limit.
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if limit := memoryLimit(text); limit > 0 {
			debug.SetMemoryLimit(limit)
			return
		}
	}
}

// memoryLimit is three quarters of what a cgroup allows, in bytes, and 0 if that is
// no limit. The rest is for what the collector does not see: the binary, stacks, /tmp.
func memoryLimit(cgroup []byte) int64 {
	n, err := strconv.ParseInt(string(bytes.TrimSpace(cgroup)), 10, 64)
	if err != nil || n <= 0 || n >= 1<<42 {
		return 0
	}
	return n / 4 * 3
}

// memoryUsed is the most memory that the process has held so far, in bytes; where
// the kernel does not say, what it holds now.
func memoryUsed() uint64 {
	status, err := os.ReadFile("/proc/self/status")
	if err == nil {
		if peak := highWater(status); peak > 0 {
			return peak
		}
	}
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64() - s[1].Value.Uint64()
}

// highWater reads VmHWM, in bytes, from /proc/self/status; 0 if it is not there.
func highWater(status []byte) uint64 {
	for line := range bytes.Lines(status) {
		f := bytes.Fields(line)
		if len(f) == 3 && string(f[0]) == "VmHWM:" && string(f[2]) == "kB" {
			n, err := strconv.ParseUint(string(f[1]), 10, 53)
			if err != nil {
				return 0
			}
			return n << 10
		}
	}
	return 0
}
