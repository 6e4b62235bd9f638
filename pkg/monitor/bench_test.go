package monitor_test

import (
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/tlog"
)

// The benchmarks read logs of tlogtest over loopback HTTP with Monitor.Run, state and
// mail in a folder, as the command does, and with less than that in the same run:
//
//	go test -run '^$' -bench . ./pkg/monitor
//	go test -run '^$' -bench 'RekorV2$' -benchtime 5x ./pkg/monitor
//
// With -benchtime Nx each figure is the median of N. The log is served by another
// process, and CPU is the reader's user and system time. On a machine of few cores
// the two still share them, so entries/s is what both can do together.

// BenchmarkRekorV2 is a scan on loopback. The floor fetches and hashes the same
// bytes with the same client, the bare one with net/http alone.
func BenchmarkRekorV2(b *testing.B) {
	loopback(b, job{Type: tlog.RekorV2, Entries: entries(100_000)})
}

func loopback(b *testing.B, j job) {
	b.Helper()
	log := serve(b, j)
	var run, floor, bare sample
	for b.Loop() {
		bare.add(read(b, log, readPlain, 1))
		floor.add(read(b, log, readFloor, 0))
		run.add(read(b, log, runMonitor, 0))
	}
	run.report(b)
	run.compare(b, floor, "floor")
	run.compare(b, bare, "bare")
}

// BenchmarkRekorV2Latency has 50 ms before each answer. "x-one" compares with one
// request at a time, "of-limit" with what as many as there ever were in flight bring
// if each takes 50 ms and nothing else takes any time. As long as "cores" are fewer
// than the machine has, it is not parsing that takes it.
func BenchmarkRekorV2Latency(b *testing.B) {
	late(b, job{Type: tlog.RekorV2, Entries: entries(200_000), Latency: 50 * time.Millisecond})
}

func late(b *testing.B, j job) {
	b.Helper()
	log := serve(b, j)
	var run, floor, one sample
	for b.Loop() {
		one.add(read(b, log, readPlain, 1))
		floor.add(read(b, log, readFloor, 0))
		run.add(read(b, log, runMonitor, 0))
	}
	run.report(b)
	perSecond := median(run, figures.perSecond)
	b.ReportMetric(perSecond/median(one, figures.perSecond), "x-one")
	b.ReportMetric(median(floor, figures.perSecond)/median(one, figures.perSecond), "floor-x-one")
	inFlight := median(run, func(f figures) float64 { return float64(f.InFlight) })
	b.ReportMetric(inFlight, "in-flight")
	b.ReportMetric(perSecond/(inFlight*float64(pageWidth(j.Type))/j.Latency.Seconds()), "of-limit")
	b.ReportMetric(median(run, figures.cores), "cores")
}

// BenchmarkRekorV1 compares with the best that a plain client gets from the same
// server, with any number of requests in flight. One server gives all that this
// machine can; the other as much as rekor-server did on a small one, ten entries
// in 30 ms, two requests at a time.
func BenchmarkRekorV1(b *testing.B) {
	fast := job{Type: tlog.RekorV1, Entries: entries(20_000)}
	slow := job{Type: tlog.RekorV1, Entries: entries(5000), Slots: 2, Service: 30 * time.Millisecond}
	for _, c := range []struct {
		name string
		job
	}{{"fast", fast}, {"slow", slow}} {
		for _, latency := range []time.Duration{0, 50 * time.Millisecond} {
			b.Run(fmt.Sprintf("%s/%s", c.name, latency), func(b *testing.B) {
				c.Latency = latency
				log := serve(b, c.job)
				var run, floor sample
				served := 0.0
				for b.Loop() {
					for _, n := range []int{8, 16, 32, 64} {
						served = max(served, read(b, log, readPlain, n).perSecond())
					}
					floor.add(read(b, log, readFloor, 0))
					run.add(read(b, log, runMonitor, 0))
				}
				run.report(b)
				run.compare(b, floor, "floor")
				b.ReportMetric(served, "plain-entries/s")
				b.ReportMetric(median(run, figures.perSecond)/served, "of-plain")
			})
		}
	}
}

// BenchmarkMemory is the peak memory of a run's process, with the memory limit
// that main sets. A million entries take a minute or two.
func BenchmarkMemory(b *testing.B) {
	const latency = 50 * time.Millisecond // makes reading ahead take all that it may
	for _, t := range []tlog.Type{tlog.RekorV2, tlog.RFC6962, tlog.StaticCT} {
		for _, c := range []struct {
			name string
			job
		}{
			{"1000", job{Entries: 1000}},
			{"100000", job{Entries: 100_000}},
			{"1000000", job{Entries: 1_000_000}},
			{"largest", job{Entries: 20 * 256, Leaves: "max"}},
			{"largest-50ms", job{Entries: 20 * 256, Leaves: "max", Latency: latency}},
			{"huge-50ms", job{Entries: 8 * 256, Leaves: "huge", Latency: latency}},
		} {
			if c.Leaves == "huge" && t == tlog.RekorV2 {
				continue // no leaf there is larger than 64 KiB
			}
			b.Run(fmt.Sprintf("%s/%s", t, c.name), func(b *testing.B) {
				c.Type = t
				log := serve(b, c.job)
				var run sample
				for b.Loop() {
					run.add(read(b, log, runMonitor, 0))
				}
				run.report(b)
			})
		}
	}
}

// maxRSS is what a run may take, whatever it reads.
const maxRSS = 128 << 20

// It keeps P5 as far as it can be seen from outside. What the system counts
// depends on the collector, so the tests of tlog.Budget say more exactly who holds what.
func TestP5MemoryDoesNotGrowWithTheRange(t *testing.T) {
	if testing.Short() {
		t.Skip("reads a gigabyte")
	}
	if raceDetector() || peakRSS(t) == 0 {
		t.Skip("what the system counts is not the monitor's memory here")
	}
	const latency = 50 * time.Millisecond // makes reading ahead take all that it may
	for _, c := range []struct {
		name string
		log  tlog.Type
		job
	}{
		{"2,000 entries", tlog.RekorV2, job{Entries: 2000}},
		{"200,000 entries", tlog.RekorV2, job{Entries: 200_000}},
		{"20 bundles of the largest size", tlog.RekorV2, job{Entries: 20 * 256, Leaves: "max", Latency: latency}},
		{"50,000 entries", tlog.RFC6962, job{Entries: 50_000}},
		{"large entries", tlog.RFC6962, job{Entries: 1000, Leaves: "max", Latency: latency}},
		{"entries of the largest size", tlog.RFC6962, job{Entries: 1000, Leaves: "huge", Latency: latency}},
		{"16 MiB beside entries", tlog.RFC6962, job{Entries: 1000, Leaves: "beside"}},
		{"large entries that fit", tlog.RFC6962, job{Entries: 1000, Leaves: "fitting"}},
		{"50,000 entries", tlog.StaticCT, job{Entries: 50_000}},
		{"10 tiles of the largest size", tlog.StaticCT, job{Entries: 10 * 256, Leaves: "max", Latency: latency}},
		{"entries of the largest size", tlog.StaticCT, job{Entries: 8 * 256, Leaves: "huge", Latency: latency}},
	} {
		t.Run(fmt.Sprintf("%s, %s", c.log, c.name), func(t *testing.T) {
			c.Type = c.log
			f := read(t, serve(t, c.job), runMonitor, 0)
			if f.PeakRSS >= maxRSS {
				t.Errorf("the run's process took %d MiB, want less than %d", f.PeakRSS>>20, maxRSS>>20)
			}
			want := uint64(1)
			if c.Leaves == "fitting" {
				want += largeFitting + hugeBeside
			}
			if f.Findings != want {
				t.Errorf("%d findings, want %d entries of ours", f.Findings, want)
			}
			t.Logf("%d entries: %d MiB", f.Entries, f.PeakRSS>>20)
		})
	}
}

// raceDetector reports whether this test was built with -race.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// entries is the size of a benchmark's log; BENCH_ENTRIES overrides it.
func entries(n uint64) uint64 {
	if v, err := strconv.ParseUint(os.Getenv("BENCH_ENTRIES"), 10, 64); err == nil {
		return v
	}
	return n
}

// sample are the figures of one reader, run several times.
type sample []figures

func (s *sample) add(f figures) { *s = append(*s, f) }

func median(s sample, of func(figures) float64) float64 {
	var all []float64
	for _, f := range s {
		all = append(all, of(f))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func (s sample) report(b *testing.B) {
	b.Helper()
	b.ReportMetric(0, "ns/op") // of a round of everything
	b.ReportMetric(median(s, figures.perSecond), "entries/s")
	cpu := median(s, figures.cpuPerEntry)
	b.ReportMetric(cpu, "us-CPU/entry")
	b.ReportMetric(1e6/cpu, "entries/s/core")
	b.ReportMetric(median(s, func(f figures) float64 { return float64(f.Allocs) / float64(f.Entries) }), "allocs/entry")
	b.ReportMetric(median(s, func(f figures) float64 { return float64(f.Bytes) / float64(f.Entries) }), "B/entry")
	b.ReportMetric(median(s, func(f figures) float64 { return float64(f.PeakRSS) / (1 << 20) }), "MiB-peak")
	for _, f := range s {
		if want := uint64(1); f.Findings != want {
			b.Fatalf("%d findings, want the one entry of ours", f.Findings)
		}
	}
}

// compare reports CPU an entry of a lesser reader, and how often it fits in ours.
func (s sample) compare(b *testing.B, other sample, name string) {
	b.Helper()
	cpu := median(other, figures.cpuPerEntry)
	b.ReportMetric(cpu, name+"-us-CPU/entry")
	b.ReportMetric(median(s, figures.cpuPerEntry)/cpu, "x-"+name)
}
