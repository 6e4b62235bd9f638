package main

import (
	"fmt"
	"os"
	"sync"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/whosigned/whosigned/pkg/report"
	"github.com/whosigned/whosigned/pkg/tlog"
)

// progress draws a bar for each log that takes a while, on a terminal only. When
// it is finished nothing of it is left.
type progress struct {
	mu   sync.Mutex
	bars *mpb.Progress
	logs map[tlog.ID]*logBar
}

type logBar struct {
	bar   *mpb.Bar
	began uint64 // where this run found the log, so that speed and time left are this run's
}

func (f *flags) progress(c *cobra.Command) *progress {
	w, ok := c.ErrOrStderr().(*os.File)
	if !ok || f.verbose || !term.IsTerminal(int(w.Fd())) {
		return &progress{}
	}
	return &progress{bars: mpb.New(mpb.WithOutput(w), mpb.WithWidth(40)), logs: make(map[tlog.ID]*logBar)}
}

const (
	barFrom = 2000 // entries that a scan must have for a bar
	barName = 24   // characters of a log's name beside it
)

func (p *progress) update(log tlog.Info, scanned, size uint64) {
	if p.bars == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b, ok := p.logs[log.ID]
	if !ok {
		if size-min(scanned, size) < barFrom {
			return
		}
		b = &logBar{began: scanned}
		b.bar = p.bars.AddBar(int64(size-scanned), mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(
				decor.Name(shortName(log.Origin), decor.WCSyncSpaceR),
				decor.Any(func(s decor.Statistics) string {
					return fmt.Sprintf("%d/%d", b.began+uint64(s.Current), b.began+uint64(s.Total))
				}, decor.WCSyncSpace)),
			mpb.AppendDecorators(decor.AverageSpeed(0, "%.0f/s", decor.WCSyncSpace), decor.AverageETA(decor.ET_STYLE_GO, decor.WCSyncSpace)))
		p.logs[log.ID] = b
	}
	b.bar.SetTotal(int64(size-min(b.began, size)), false)
	b.bar.SetCurrent(int64(scanned - min(b.began, scanned)))
}

// shortName keeps both ends of a name: a Rekor v1 origin ends in the tree ID.
func shortName(origin string) string {
	name := []rune(report.Safe(origin))
	if len(name) <= barName {
		return string(name)
	}
	return string(name[:barName-9]) + "…" + string(name[len(name)-8:])
}

// finish takes the bars off the screen.
func (p *progress) finish() {
	if p.bars == nil {
		return
	}
	p.mu.Lock()
	for _, b := range p.logs {
		b.bar.Abort(true)
	}
	p.mu.Unlock()
	p.bars.Wait()
}
