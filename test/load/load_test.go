package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if isPeers() {
		exitWith(servePeers())
	}
	os.Exit(m.Run())
}

// What a short run measures is worth nothing, but all of its parts have to work.
func TestAShortRunFillsAllTables(t *testing.T) {
	var report, progress strings.Builder
	err := run(t.Context(), strings.Fields("-starts 1 -pairs 2 -slice 20ms -storm 400ms -revoke 100ms "+
		"-cases post-1m-chunked-h2c -compare static-static,oauth_cc-nothing "+
		"-storms expiry,revocation-post-1m,hang"), &report, &progress)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, &progress, &report)
	}
	const number = `\d+\.\d+`
	ratios := ` \| ` + number + ` \| ` + number + `–` + number + ` \(range\) \| ` + number + `–` + number + ` \| ` + number + ` \| ` + number + `–` + number + ` \|`
	costs := ` \| ` + number + ` \| \d+ \| ` + number + ` ms \| ` + number + ` ms \| \d+ \|`
	storm := ` \| \d+ \| .*200: \d+.* \| \d+ \| ` + number + ` ms \| ` + number + ` ms \| ` + number + ` ms \| ` + number + ` \|`
	for _, row := range []string{
		`\| CPU \| .+, \d+ cores, linux/`,
		`\| Go \| \d+\.\d+`,
		`\| Caddy \| v2\.\d+\.\d+ \|`,
		`\| oauth_cc \| .+ \|`,
		`\| post-1m-chunked-h2c \| oauth_cc / nothing` + ratios,
		`\| post-1m-chunked-h2c \| noise: static / static` + ratios,
		`\| post-1m-chunked-h2c \| nothing` + costs,
		`\| post-1m-chunked-h2c \| static` + costs,
		`\| post-1m-chunked-h2c \| oauth_cc` + costs,
		`\| expiry \| get-small` + storm,
		`\| revocation-post-1m \| post-1m` + storm,
		`\| hang \| get-small` + storm,
	} {
		if !regexp.MustCompile(`(?m)^` + row).MatchString(report.String()) {
			t.Errorf("no row %s", row)
		}
	}
	if t.Failed() {
		t.Log(report.String())
	}
}
