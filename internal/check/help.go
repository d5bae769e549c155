package check

// troubleshooting is the address of the page that has a heading for each result.
const troubleshooting = "https://github.com/caddy-oauth-cc/caddy-oauth-cc/blob/main/docs/troubleshooting.md"

// helpFor returns the address of what the page says about a result. The heading is the result itself, and GitHub
// leaves its letters and underscores as they are.
func helpFor(result string) string { return troubleshooting + "#" + result }
