package fleet

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/help"
	"github.com/caddy-oauth-cc/caddy-oauth-cc/internal/mask"
)

// storageRest is how long a storage that gave no answer in time is left alone. Otherwise each
// grant would wait for it in turn.
const storageRest = 10 * time.Second

// operation is the log's name of an operation of the storage.
type operation string

const (
	opLoad  operation = "load"
	opStore operation = "store"
	opLock  operation = "lock"
)

// health knows whether a storage works. It logs once that operations fail, and once that all of them
// work again.
type health struct {
	logger *zap.Logger

	mu         sync.Mutex         // guards the rest
	failing    map[operation]bool // the operations that failed the last time
	restsUntil time.Time          // the storage is left alone until then; zero if it always answered
	silent     bool               // nothing is logged any more
}

func newHealth(logger *zap.Logger) *health {
	return &health{logger: logger, failing: make(map[operation]bool)}
}

// observe notes how an operation ended. An operation whose ctx ended first, or that had too little
// time, says nothing about the storage. observe logs without holding mu, as a logger may block.
func (h *health) observe(ctx context.Context, op operation, err error) {
	if err != nil && (ctx.Err() != nil || errors.Is(err, errNoTimeLeft)) {
		return
	}
	h.mu.Lock()
	isNews := h.observeLocked(op, err)
	h.mu.Unlock()
	switch {
	case !isNews:
	case err != nil:
		help.Write(h.logger.Check(zapcore.WarnLevel, "the storage fails; tokens are not shared with other gateways until it works again"), "",
			zap.String("operation", string(op)), zap.String("error", oneLine(err)))
	default:
		h.logger.Info("the storage works again", zap.String("operation", string(op)))
	}
}

// observeLocked is observe without the log. It reports whether the first operation fails or the last
// failure is over. When loads work again, the storage was down and is up again. Then the other
// failures are over as well, as it can take long until those operations are tried again.
func (h *health) observeLocked(op operation, err error) (isNews bool) {
	failed := len(h.failing) > 0
	switch {
	case err != nil:
		h.failing[op] = true
	case op == opLoad && h.failing[op]:
		clear(h.failing)
	default:
		delete(h.failing, op)
	}
	if errors.Is(err, errStorageHangs) || errors.Is(err, errStorageBusy) {
		h.restsUntil = time.Now().Add(storageRest)
	}
	return failed != (len(h.failing) > 0) && !h.silent
}

// rests reports whether the storage is left alone because it gave no answer in time.
func (h *health) rests() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.restsUntil)
}

// fallSilent ends the logging, also for operations in progress. The configuration has ended, and its
// storage may be closed.
func (h *health) fallSilent() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silent = true
}

// oneLine makes a storage's error fit for the log. It masks no credential of the storage: a module
// that puts one into its errors shows it.
func oneLine(err error) string {
	return mask.Secrets{}.Quote(err.Error())
}
