//go:build !race

package gatewaytest

// HasRaceDetector tells whether the test runs under the race detector.
const HasRaceDetector = false
