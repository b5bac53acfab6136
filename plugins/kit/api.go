package kit

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
)

// WaitForAPI returns when the API server answers, or with ctx's error. Any answer
// below 500 counts: whether the plugin may do a thing is told by the thing itself.
func (e *Env) WaitForAPI(ctx context.Context) error {
	if e.RESTConfig == nil {
		return fmt.Errorf("wait for the API: plugin %s was given no API server", e.Name)
	}
	client, err := rest.HTTPClientFor(e.RESTConfig)
	if err != nil {
		return fmt.Errorf("wait for the API: %w", err)
	}
	defer client.CloseIdleConnections()
	const pause, patience = 200 * time.Millisecond, 5 * time.Second
	for {
		if err = ask(ctx, client, e.API.Server+"/readyz", patience); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the API at %s: %w (last: %w)", e.API.Server, ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// ask gets url once and is content with any status below 500.
func ask(ctx context.Context, client *http.Client, url string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return nil
}
