package main

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"keelson.dev/keelson/plugins/kit/kittest"
	pluginv1 "keelson.dev/keelson/proto/plugin/v1"
	"keelson.dev/keelson/proto/plugin/v1/plugintest"
)

// TestContract passes the plugin through the suite that every plugin passes.
func TestContract(t *testing.T) {
	plugintest.Run(t, plugintest.Options{
		New: func(t *testing.T) plugintest.Subject {
			client, exited := kittest.Client(t, plugin)
			return plugintest.Subject{Client: client, Exited: exited}
		},
		Configure: func(t *testing.T) *pluginv1.ConfigureRequest {
			return &pluginv1.ConfigureRequest{DataDir: t.TempDir(), RunDir: t.TempDir()}
		},
		Ready: true,
	})
}

func TestConfig(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{`{"labels":{"team":"blue"}}`, ""},
		{`{"labels":{"no good":"x"}}`, "labels[no good]: Invalid value"},
		{`{"labels":{"team":"no good"}}`, "labels[team]: Invalid value"},
		{`{"exclude":["Upper"]}`, "exclude[0]: Invalid value"},
		{`{"label":{}}`, "unknown field"},
	} {
		env := kittest.NewEnv(t, plugin)
		env.Config = []byte(c.config)
		_, err := newController(env)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.config, err, c.want)
		}
	}
}

func TestLabels(t *testing.T) {
	env := kittest.NewEnv(t, plugin)
	env.Config = []byte(`{"labels":{"team":"blue"}}`)
	c, err := newController(env)
	if err != nil {
		t.Fatal(err)
	}
	namespace := func(name string, labels map[string]string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	}
	c.client = fake.NewClientset(namespace("new", nil), namespace("red", map[string]string{"team": "red"}), namespace("kube-system", nil))
	kittest.Run(t, c)
	for name, want := range map[string]string{"new": "blue", "red": "red", "kube-system": ""} {
		kittest.Eventually(t, "namespace "+name, func() error {
			got, err := c.client.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
			if err == nil && got.Labels["team"] != want {
				err = errors.New("it has team " + got.Labels["team"])
			}
			return err
		})
	}
}
