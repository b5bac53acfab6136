package history

import (
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func testTemplate(image string) *corev1.PodTemplateSpec {
	return &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}, Annotations: map[string]string{"a": "<b>"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
	}
}

func testRevision(t *testing.T, number int64, image string) *appsv1.ControllerRevision {
	t.Helper()
	data, err := Data(testTemplate(image))
	if err != nil {
		t.Fatal(err)
	}
	return &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: image}, Data: runtime.RawExtension{Raw: data}, Revision: number}
}

// TestData: the form is kubectl's, and the template comes back whole.
func TestData(t *testing.T) {
	rev := testRevision(t, 1, "app:1")
	if text := string(rev.Data.Raw); !strings.HasPrefix(text, `{"spec":{"template":{"$patch":"replace","metadata":{`) || strings.Contains(text, "creationTimestamp") {
		t.Errorf("the data is %s", text)
	}
	got, err := Template(rev)
	if err != nil || !equality.Semantic.DeepEqual(got, testTemplate("app:1")) {
		t.Errorf("got %+v, %v; want the template", got, err)
	}
}

func TestTemplateOfOthers(t *testing.T) {
	for _, data := range []string{``, `{`, `[]`, `{"spec":{}}`, `{"spec":{"template":3}}`} {
		if got, err := Template(&appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(data)}}); err == nil {
			t.Errorf("template of %q: got %+v, want an error", data, got)
		}
	}
}

func TestFind(t *testing.T) {
	a, b, again := testRevision(t, 1, "app:1"), testRevision(t, 2, "app:2"), testRevision(t, 3, "app:1")
	// Another writer's form of the same.
	other := testRevision(t, 1, "app:1")
	other.Data.Raw = []byte(strings.Replace(string(other.Data.Raw), `{"spec":`, `{ "spec": `, 1))
	revs := func(r ...*appsv1.ControllerRevision) []*appsv1.ControllerRevision { return r }
	for _, tt := range []struct {
		name string
		revs []*appsv1.ControllerRevision
		want *appsv1.ControllerRevision
	}{
		{"none", nil, nil},
		{"there", revs(a, b), a},
		{"twice, the newer", revs(a, b, again), again},
		{"in another form", revs(other, b), other},
		{"not there", revs(b), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := find(tt.revs, a.Data.Raw); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	hashes := map[string]bool{}
	for n := range int32(5) {
		hashes[Hash([]byte("data"), n)] = true
	}
	if len(hashes) != 5 {
		t.Errorf("five counts of collisions gave %d hashes: %v", len(hashes), hashes)
	}
	if got := Name(strings.Repeat("n", 250), "hash"); len(got) > 253 || !strings.HasSuffix(got, "-hash") {
		t.Errorf("the name of a long one is %q", got)
	}
}

func TestSurplus(t *testing.T) {
	for _, tt := range []struct {
		name  string
		live  string // numbers
		limit int32
		want  string
	}{
		{"all within", "5", 4, ""},
		{"the oldest", "5", 2, "1 2"},
		{"live ones do not count", "1 5", 2, "2"},
		{"none kept", "5", 0, "1 2 3 4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var revs []*appsv1.ControllerRevision
			for _, n := range []int64{3, 1, 5, 2, 4} {
				revs = append(revs, &appsv1.ControllerRevision{Revision: n})
			}
			Sort(revs)
			var got []string
			for _, r := range surplus(revs, func(r *appsv1.ControllerRevision) bool {
				return strings.Contains(tt.live, strconv.FormatInt(r.Revision, 10))
			}, tt.limit) {
				got = append(got, strconv.FormatInt(r.Revision, 10))
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got %q, want %q", s, tt.want)
			}
		})
	}
}
