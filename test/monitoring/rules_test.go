package monitoring

import (
	"os/exec"
	"testing"
)

func TestPromtoolAcceptsTheFiles(t *testing.T) {
	for _, file := range []string{"alerts.yml", "alerts_test.yml", "prometheus.yml"} {
		read(t, folder+file)
	}
	for _, args := range [][]string{
		{"check", "config", "prometheus.yml"},
		{"check", "rules", "alerts.yml"},
		{"test", "rules", "alerts_test.yml"},
	} {
		check := exec.Command(program(t, "promtool"), args...)
		check.Dir = folder
		if output, err := check.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, output)
		}
	}
}
