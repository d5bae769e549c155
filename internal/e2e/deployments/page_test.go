package deployments

import (
	"regexp"
	"strings"
	"testing"
)

const page = repository + "docs/deploying.md"

var imageTag = regexp.MustCompile(`\bcaddy:([0-9][0-9.]*[0-9])`)

// Pages name the newest Caddy that the module is tested with, or less of its version.
func TestPagesNameTheCaddyOfTheModule(t *testing.T) {
	for _, page := range []string{page, repository + "README.md"} {
		tags := imageTag.FindAllStringSubmatch(read(t, page), -1)
		if len(tags) < 2 {
			t.Errorf("%s names %d images", page, len(tags))
		}
		for _, tag := range tags {
			if version := caddyVersion(t); !strings.HasPrefix(version+".", tag[1]+".") {
				t.Errorf("%s has %s, test/go.mod %s", page, tag[0], version)
			}
		}
	}
}

// The page shows the site of the probes as the example has it.
func TestPageShowsTheSiteOfTheProbes(t *testing.T) {
	text := readManifest(t, withSecret+"gateway.yaml").configMap.Data["Caddyfile"]
	_, site, ok := strings.Cut(text, "http://:9091 {\n")
	if !ok || !strings.Contains(read(t, page), "```caddyfile\nhttp://:9091 {\n"+site+"```\n") {
		t.Errorf("the page does not show\nhttp://:9091 {\n%s", site)
	}
}
