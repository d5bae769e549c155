package oauthcc

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A tag of somebody else's can be moved to any code, which then runs with what the workflow may do.
func TestWorkflowsPinActionsAndMayLittle(t *testing.T) {
	files, err := filepath.Glob(".github/workflows/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no workflows: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, fault := range workflowFaults(string(text)) {
			t.Errorf("%s: %s", file, fault)
		}
	}
}

func TestFaultsOfWorkflowsAreFound(t *testing.T) {
	const (
		pinned = "      - uses: a/b@0123456789abcdef0123456789abcdef01234567 # v1.2.3\n"
		right  = "permissions:\n  contents: read\n\nconcurrency:\n  group: g\n" + pinned
	)
	for fault, text := range map[string]string{
		"":                                  right,
		"a/b@v1 is not pinned":              right + "      - uses: a/b@v1\n",
		"a/c@main is not pinned":            right + "        uses: a/c@main # v1.2.3\n",
		"has no permissions that only read": strings.Replace(right, "contents: read", "contents: write", 1),
		"has no concurrency":                strings.Replace(right, "concurrency:", "", 1),
		"uses a secret":                     right + "          TOKEN: ${{ secrets.TOKEN }}\n",
	} {
		if got := strings.Join(workflowFaults(text), "; "); got != fault {
			t.Errorf("got %q, want %q", got, fault)
		}
	}
}

var (
	usedAction = regexp.MustCompile(`(?m)^[ -]*uses: (\S+)(.*)$`)
	pinnedTo   = regexp.MustCompile(`@[0-9a-f]{40}$`)
	release    = regexp.MustCompile(`^ # v\d+\.\d+\.\d+$`)
)

func workflowFaults(text string) (faults []string) {
	for _, used := range usedAction.FindAllStringSubmatch(text, -1) {
		if !pinnedTo.MatchString(used[1]) || !release.MatchString(used[2]) {
			faults = append(faults, used[1]+" is not pinned")
		}
	}
	if !strings.Contains(text, "\npermissions:\n  contents: read\n\n") && !strings.HasPrefix(text, "permissions:\n  contents: read\n\n") {
		faults = append(faults, "has no permissions that only read")
	}
	if !strings.Contains(text, "\nconcurrency:\n") {
		faults = append(faults, "has no concurrency")
	}
	if strings.Contains(text, "secrets.") {
		faults = append(faults, "uses a secret")
	}
	return faults
}

var (
	changelogSection = regexp.MustCompile(`^## \[(Unreleased|\d+\.\d+\.\d+)\]( - \d{4}-\d\d-\d\d)?$`)
	changelogGroup   = regexp.MustCompile(`^### (Added|Changed|Deprecated|Removed|Fixed|Security)$`)
)

// .ci/release-notes finds a version by its heading, and people find a change by its group.
func TestChangelogIsInTheFormOfKeepAChangelog(t *testing.T) {
	text, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\n## [Unreleased]\n") {
		t.Error("there is no section for what comes next")
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		isSection, isGroup := strings.HasPrefix(line, "## "), strings.HasPrefix(line, "### ")
		if isSection && !changelogSection.MatchString(line) || isGroup && !changelogGroup.MatchString(line) {
			t.Errorf("%q is not a heading of Keep a Changelog", line)
		}
	}
}
