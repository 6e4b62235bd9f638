//go:build e2e

package report

import (
	"context"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whosigned/whosigned/pkg/watch"
)

// TestMailFitsANarrowAndAWideWindow renders mails in headless Chromium. With
// WHOSIGNED_LOOK set to a folder it leaves screenshots there, to be looked at.
func TestMailFitsANarrowAndAWideWindow(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium")
	}
	hostile := identityAlert()
	hostile.Findings = []watch.Finding{finding(1)}
	hostile.Findings[0].Subject = strings.Repeat("W", 3000)
	hostile.Findings[0].Subjects = []string{"\u202e</td>http://evil.example/" + strings.Repeat("x", 300), "שלום עולם 123 ← abc"}
	hostile.Findings[0].Extensions[0].Name = strings.Repeat("n", 60)
	hostile.Seal()
	for name, alerts := range map[string][]Alert{
		"identity": {identityAlert()}, "tamper": {tamperAlert()}, "health": {healthAlert(Opened)}, "hostile": {hostile},
		"digest": {healthAlert(Closed), identityAlert(), tamperAlert()},
	} {
		page := filepath.Join(t.TempDir(), name+".html")
		write(t, page, Email(alerts).HTML)
		for _, width := range []int{375, 700} {
			frame := filepath.Join(t.TempDir(), "frame.html")
			write(t, frame, fmt.Sprintf(`<iframe width=%d height=600 style="border:0" srcdoc="%s" onload="let e=this.contentDocument.documentElement;document.title='hidden '+(e.scrollWidth-e.clientWidth)"></iframe>`,
				width, html.EscapeString(Email(alerts).HTML)))
			dom := browse(t, chromium, "--dump-dom", "file://"+frame)
			if !strings.Contains(dom, "<title>hidden 0</title>") {
				i := strings.Index(dom, "<title>hidden")
				t.Errorf("%s at %d px scrolls sideways: %.40s", name, width, dom[max(i, 0):])
			}
			if out := os.Getenv("WHOSIGNED_LOOK"); out != "" {
				for mode, flag := range map[string]string{"light": "1", "dark": "0"} {
					png := filepath.Join(out, fmt.Sprintf("%s-%d-%s.png", name, width, mode))
					browse(t, chromium, fmt.Sprintf("--window-size=%d,2400", width), "--blink-settings=preferredColorScheme="+flag, "--hide-scrollbars", "--screenshot="+png, "file://"+page)
				}
			}
		}
	}
}

func browse(t *testing.T, chromium string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args = append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--user-data-dir=" + t.TempDir()}, args...)
	out, err := exec.CommandContext(ctx, chromium, args...).Output()
	if err != nil {
		t.Fatalf("chromium: %v", err)
	}
	return string(out)
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
