package apiserver

// Why we answer otherwise than upstream.
const (
	newer     = "k8s.io/apiserver and apimachinery 1.37 say it so; the golden answers are of 1.36"
	ownOrder  = "the same causes in the order in which 1.37's libraries find them"
	onIn37    = "a feature that 1.37 has turned on"
	noChoice  = "the API server computes it; a client's word for it is nothing"
	moreFound = "our node serves it; upstream has it behind a gate that is off"
)

// deliberate names the cases ("corpus/case") that we answer otherwise than upstream, with the reason.
var deliberate = map[string]string{
	"apply/a list":                                             newer,
	"apply/cut":                                                newer,
	"patch/json cut":                                           newer,
	"patch/json no body":                                       newer,
	"patch/merge cut":                                          newer,
	"patch/merge no body":                                      newer,
	"patch/strategic cut":                                      newer,
	"pod_spec/create/owners empty":                             newer,
	"pod_spec/create/owners event":                             newer,
	"pod_spec/create/owners version":                           newer,
	"pod_update/update 0 plain/annotation":                     ownOrder,
	"pod_update/update 0 plain/gates and wrong label":          ownOrder,
	"pod_update/update 0 plain/toleration wrong":               ownOrder,
	"pod_update/update 0 plain/wrong everything":               ownOrder,
	"csinode/create/0 base":                                    "the status is a field of 1.37",
	"poddisruptionbudget_more/update 1 status/condition twice": newer,
	"horizontalpodautoscaler_v1/update 0 plain/behavior added": "rules in v1's annotation get the defaults that v2's have",
	"job_more/create/scheduling":                               "a field of 1.37",
	"resourceclaim/create/derived":                             "a field of 1.37",
	"resourceclaim/create/constraint both":                     "the API documents one of the two",
	"pod_spec/create/status given":                             noChoice,
	"pod_volumes/create/projected":                             onIn37,
	"pod_volumes/create/projected bundle both":                 onIn37,
	"pod_volumes/create/projected bundle none":                 onIn37,
	"pod_volumes/create/projected bundle selector":             onIn37,
	"pod_volumes/create/projected bundle signer":               onIn37,
	"pod_volumes/create/projected certificate":                 onIn37,
	"pod_volumes/create/projected certificate wrong":           onIn37,
	"secret/create/token account":                              "the token is made with the secret, not by a controller later",
	"service/create/node port out of range":                    "upstream's dry run does not look at the range; ours answers as the write itself",
	"statefulset/create/0 base":                                onIn37,
	"statefulset/create/strategy on delete":                    onIn37,
	"statefulset/create/unavailable":                           onIn37,
	"statefulset/create/unavailable zero":                      onIn37,
	"pods/log stream":                                          moreFound,
	"pods/log stream tail":                                     moreFound,
	"patch/put scale old kind":                                 "the kinds of apps/v1beta1, which nobody serves any more, are in no scheme of ours",
	"pods/bind no target":                                      "what is missing in a body is the client's fault: 422, not 500",
	"serve/openapi v3 text":                                    "the list of documents is JSON and says so; upstream leaves it to its HTTP library to guess text/plain",
	"list/get version no number":                               "a wrong parameter is the client's fault: 400, not 500",
	"list/watch version no number":                             "a wrong parameter is the client's fault: 400, not 500",
	"list/version 0 limit":                                     "upstream's cache ignores a limit at version 0; we keep to it, as the API allows",
	"list/watch initial":                                       "we end the initial events at once; upstream's bookmark comes later than the second that the case waits",
	"list/watch initial from 0":                                "we end the initial events at once; upstream's bookmark comes later than the second that the case waits",
}
