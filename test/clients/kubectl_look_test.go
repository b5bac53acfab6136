package clients

// Steps that look, wait, and ask for rights; nodes and kinds of one's own.

var lookSteps = []step{
	{line: "version", only: "machine", texts: []string{"Server Version: v1.37"}}, // a test binary has no version,
	{line: "api-versions", texts: []string{"apps/v1", "rbac.authorization.k8s.io/v1"}},
	{line: "api-resources -o wide --sort-by=name", texts: []string{"deployments", "deploy", "create,delete,deletecollection,get,list,patch,update,watch", "keelson.dev/v1alpha1"}},
	{line: "api-resources --namespaced=false --verbs=list --api-group=rbac.authorization.k8s.io", texts: []string{"clusterroles", "!rolebindings                  rbac"}},
	{line: "api-resources --categories=all", texts: []string{"pods", "replicasets"}},
	{line: "explain deployment.spec.strategy", texts: []string{"rollingUpdate", "GROUP:", "apps"}},
	{line: "explain pod --recursive", texts: []string{"ephemeralContainers", "topologySpreadConstraints"}},
	{line: "explain hpa --api-version=autoscaling/v1", texts: []string{"VERSION:    v1"}},
	{line: "explain deployment -o plaintext-openapiv2", texts: []string{"KIND:", "Deployment"}},
	{line: "explain pod.spec.nothing", fails: true, texts: []string{`field "nothing" does not exist`}},
	{line: "cluster-info", texts: []string{"is running at"}},
	{line: "cluster-info dump --output-directory=dump --namespaces=kube-system,default", texts: []string{"Cluster info dumped to dump"}},
	{line: "get --raw /readyz?verbose", texts: []string{"[+]store ok", "[+]bootstrap ok"}},
	{line: "get --raw /openapi/v3", texts: []string{"apis/apps/v1"}},
	{line: "get componentstatuses", texts: []string{"etcd-0"}},
	{line: "top nodes", fails: true, texts: []string{"Metrics API not available"}},
	{line: "top pods", fails: true, texts: []string{"Metrics API not available"}},
	{line: "get cars", fails: true, texts: []string{`the server doesn't have a resource type "cars"`}},
	{line: "get apiservices", texts: []string{"v1.apps", "Local"}},
	{line: "describe apiservice v1.apps", texts: []string{"Local"}},
	{line: "describe ns kube-system", texts: []string{"Active"}},
	{line: "describe flowschemas", texts: []string{"catch-all", "Matching Precedence"}},
	{line: "describe prioritylevelconfigurations", texts: []string{"workload-low"}},
	{line: "describe clusterrole admin view", texts: []string{"deployments.apps"}},
	{line: "describe priorityclass", texts: []string{"system-node-critical"}},
	{line: "describe servicecidr", only: "built-in", texts: []string{"10.96.0.0/12"}},
	{line: "describe ipaddress", only: "built-in", texts: []string{"10.96.0.1"}},
	{line: "describe svc kubernetes -n default", texts: []string{"10.96.0.1", "Endpoints:"}},
	{line: "describe endpointslice kubernetes -n default", texts: []string{"192.0.2.1"}},
}

var getSteps = []step{
	{line: "apply -f app", texts: []string{"created"}},
	{line: "rollout status deploy/web --timeout=60s", texts: []string{"successfully rolled out"}},
	{line: "get all", again: true, texts: []string{"pod/web-", "service/web", "deployment.apps/web", "replicaset.apps/web-"}},
	{line: "get all -A", again: true, texts: []string{"service/kubernetes", "$NS"}},
	{line: "get deploy web -o wide", texts: []string{"CONTAINERS", "registry.example/web:1", "app=web"}},
	{line: "get pods -o wide", texts: []string{"NODE", "10.244.0."}},
	{line: "get deploy web -o yaml", texts: []string{"apiVersion: apps/v1", "kind: Deployment", "!managedFields"}},
	{line: "get deploy web -o json", texts: []string{`"kind": "Deployment"`}},
	{line: "get deploy web -o name", texts: []string{"deployment.apps/web"}},
	{line: "get deploy -o jsonpath={.items[*].metadata.name}", texts: []string{"web"}},
	{line: "get deploy -o jsonpath-as-json={.items[*].spec.replicas}", texts: []string{"2"}},
	{line: "get cm -o custom-columns=N:.metadata.name,C:.data.colour", texts: []string{"N", "app", "red"}},
	{line: "get cm -o custom-columns=N:.metadata.name --no-headers", texts: []string{"app", "!N "}},
	{line: "get cm app -o go-template={{.data.colour}}", texts: []string{"red"}},
	{line: "get cm -o template --template={{len(.items)}}", fails: true, texts: []string{"rror"}},
	{line: "get cm --sort-by=.metadata.name", texts: []string{"app-extra"}},
	{line: "get cm --sort-by=.metadata.creationTimestamp -l part=app --show-labels -L part", texts: []string{"PART", "part=app"}},
	{line: "get cm --chunk-size=1", texts: []string{"app", "app-extra", "kube-root-ca.crt"}},
	{line: "get cm -l 'part in (app),other notin (x)'", texts: []string{"app", "!kube-root-ca.crt"}},
	{line: "get cm -l '!part'", texts: []string{"kube-root-ca.crt", "!app-extra"}},
	{line: "get cm --field-selector metadata.name=app", texts: []string{"app", "!app-extra"}},
	{line: "get cm --field-selector data.x=y", fails: true, texts: []string{"BadRequest", "data.x"}},
	{line: "get pods --field-selector status.phase=Running,spec.nodeName!=", texts: []string{"web-"}},
	{line: "get cm,svc,deploy -A --ignore-not-found", texts: []string{"configmap/", "service/", "deployment.apps/"}},
	{line: "get -f app -o name", texts: []string{"configmap/app", "service/web"}},
	{line: "get cm nope --ignore-not-found"},
	{line: "get cm nope", fails: true, texts: []string{`configmaps "nope" not found`}},
	{line: "get deploy web --subresource=status -o jsonpath={.status.replicas}", texts: []string{"2"}},
	{line: "get cm app --output-watch-events --watch --request-timeout=3s", texts: []string{"ADDED"}},
	{line: "get ns --server-print=false", texts: []string{"kube-system"}},
	{line: "describe deploy,svc,cm,rs,pods", texts: []string{"web", "Replicas:", "Endpoints:", "colour"}},
	{line: "events --types=Normal --for=deployment/web", texts: []string{"ScalingReplicaSet"}},
	{line: "events", texts: []string{"SuccessfulCreate"}},
	{line: "get events --sort-by=.lastTimestamp", texts: []string{"ScalingReplicaSet"}},
	{line: "get events --field-selector involvedObject.kind=Deployment", texts: []string{"ScalingReplicaSet", "!SuccessfulCreate"}},
	{line: "describe deploy web", texts: []string{"ScalingReplicaSet"}},
}

var waitSteps = []step{
	{line: "create -f pod.yaml", texts: []string{"created"}},
	{line: "wait --for=condition=Ready pod/one --timeout=60s", texts: []string{"condition met"}},
	{line: "wait --for=jsonpath={.status.phase}=Running pod/one --timeout=60s", texts: []string{"condition met"}},
	{line: "wait --for=create pod/one --timeout=60s"},
	{line: "wait --for=condition=Ready=false pod/one --timeout=300ms", fails: true, texts: []string{"timed out waiting"}},
	{line: "delete pod one --wait=false", texts: []string{"deleted"}},
	{line: "wait --for=delete pod/one --timeout=60s"},
	{line: "create cm c --from-literal=a=b", texts: []string{"created"}},
	{line: "delete cm c --now", texts: []string{"deleted"}},
}

var rightsSteps = []step{
	{line: "auth whoami", texts: []string{"admin", "system:masters"}},
	{line: "auth whoami -o json", texts: []string{`"kind": "SelfSubjectReview"`}},
	{line: "auth can-i create pods", texts: []string{"yes"}},
	{line: "auth can-i '*' '*'", texts: []string{"yes"}},
	{line: "auth can-i get /metrics", texts: []string{"yes"}},
	{line: "auth reconcile -f rbac.yaml", texts: []string{"reader reconciled"}},
	{line: "auth can-i get pods --as=ann", again: true, texts: []string{"yes"}},
	{line: "auth can-i delete pods --as=ann", fails: true, texts: []string{"no"}},
	{line: "auth can-i --list --as=ann", texts: []string{"pods", "[get list]", "/healthz"}},
	{line: "get pods --as=ann", texts: []string{"No resources found"}},
	{line: "get secrets --as=ann", fails: true, texts: []string{`User "ann" cannot list resource "secrets" in API group "" in the namespace "$NS"`}},
	{line: "auth whoami --as=ann --as-group=g --as-uid=7", texts: []string{"ann", "7"}},
	{line: "get csr", texts: []string{"!rror"}},
	{line: "certificate approve nope", fails: true, texts: []string{"not found"}},
}

var nodeSteps = []step{
	{line: "get nodes -o wide", texts: []string{"$V-a", "Ready"}},
	{line: "describe node $V-a", texts: []string{"Allocatable:", "Conditions:"}},
	{line: "taint nodes $V-a k=v:NoSchedule", texts: []string{"tainted"}},
	{line: "taint nodes $V-a k:NoSchedule-", texts: []string{"untainted"}},
	{line: "cordon $V-b", texts: []string{"cordoned"}},
	{line: "get node $V-b", texts: []string{"SchedulingDisabled"}},
	{line: "create -f - ", stdin: onePodPerNode, texts: []string{"held created"}},
	{line: "rollout status deploy/held --timeout=60s", texts: []string{"successfully rolled out"}},
	{line: "wait --for=jsonpath={.status.disruptionsAllowed}=0 pdb/held --timeout=60s", texts: []string{"condition met"}},
	{line: "wait --for=jsonpath={.status.expectedPods}=1 pdb/held --timeout=60s", texts: []string{"condition met"}},
	{line: "drain $V-a --ignore-daemonsets --timeout=1s --pod-selector=app=held-$V", fails: true, texts: []string{"disruption budget"}},
	{line: `patch pdb held --type=merge -p '{"spec":{"minAvailable":0}}'`, texts: []string{"patched"}},
	{line: "wait --for=jsonpath={.status.disruptionsAllowed}=1 pdb/held --timeout=60s", texts: []string{"condition met"}},
	{line: "drain $V-a --dry-run=server --pod-selector=app=held-$V", texts: []string{"drained"}},
	{line: "drain $V-a --ignore-daemonsets --timeout=60s --pod-selector=app=held-$V", texts: []string{"evict", "drained"}},
	{line: "get node $V-a -o jsonpath={.spec.unschedulable}", texts: []string{"true"}},
	{line: "uncordon $V-a $V-b", texts: []string{"uncordoned"}},
	{line: "delete deploy,pdb held", texts: []string{"deleted"}},
}

// onePodPerNode is a pod that only the node $V-a can have, and a budget that wants it.
const onePodPerNode = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: held}
spec:
  replicas: 1
  selector: {matchLabels: {app: held-$V}}
  template:
    metadata: {labels: {app: held-$V}}
    spec:
      terminationGracePeriodSeconds: 1
      nodeSelector: {kubernetes.io/hostname: $V-a}
      containers: [{name: m, image: i}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: held}
spec: {minAvailable: 1, selector: {matchLabels: {app: held-$V}}}
`

var customSteps = []step{
	{line: "apply -f crd.yaml", texts: []string{"created"}},
	{line: "wait --for=condition=Established crd/boats.$V.example.org --timeout=60s", texts: []string{"condition met"}},
	{line: "explain boats.$V.example.org --recursive", again: true, texts: []string{"A boat that sails", "crew", "enum: big, small"}},
	{line: "explain boats.$V.example.org.spec.crew", texts: []string{"How many sail", "integer"}},
	{line: "create -f - ", stdin: boat, again: true, texts: []string{"created"}},
	{line: "get bt.$V.example.org", texts: []string{"CREW", "2", "!SAIL"}},
	{line: "get boats.$V.example.org -o wide", texts: []string{"SAIL", "small"}},
	{line: "scale boats.$V.example.org/b --replicas=5", texts: []string{"scaled"}},
	{line: "get boats.$V.example.org b -o jsonpath={.spec.crew}", texts: []string{"5"}},
	{line: `patch boats.$V.example.org b --type=merge --subresource=status -p '{"status":{"crew":5,"conditions":[{"type":"Afloat","status":"True"}]}}'`, texts: []string{"patched"}},
	{line: "wait --for=condition=Afloat boats.$V.example.org/b --timeout=60s", texts: []string{"condition met"}},
	{line: `patch boats.$V.example.org b --type=merge -p '{"spec":{"sail":"huge"}}'`, fails: true, texts: []string{`spec.sail: Unsupported value: "huge"`}},
	{line: `patch boats.$V.example.org b --type=merge -p '{"spec":{"sail":"big","crew":1}}'`, fails: true, texts: []string{"a big sail needs two"}},
	{line: `patch boats.$V.example.org b -p '{}'`, fails: true, texts: []string{"rror"}},
	{line: "apply --server-side -f - ", stdin: boat, texts: []string{"serverside-applied"}},
	{line: "edit boats.$V.example.org b", texts: []string{"no changes made"}},
	{line: "describe boats.$V.example.org b", texts: []string{"Crew:", "Afloat"}},
	{line: "get all", again: true, texts: []string{"boat.$V.example.org/b"}},
	{line: "label boats.$V.example.org --all x=y", texts: []string{"labeled"}},
	{line: "delete boats.$V.example.org --all", texts: []string{"deleted"}},
	{line: "describe crd boats.$V.example.org", texts: []string{"Established"}},
	{line: "delete -f crd.yaml", texts: []string{"deleted"}},
}

const boat = `
apiVersion: $V.example.org/v1
kind: Boat
metadata: {name: b}
spec: {sail: small}
`

// allSteps make an object of nearly every kind, and read them in all ways.
var allSteps = []step{
	{line: "apply -f all.yaml", texts: []string{"!rror"}},
	{line: "apply -f all.yaml", texts: []string{"!rror", "!created"}},
	{line: "get -f all.yaml", texts: []string{"statefulset.apps/sts", "lease.coordination.k8s.io/lease"}},
	{line: "get -f all.yaml -o wide", texts: []string{"networkpolicy.networking.k8s.io/netpol"}},
	{line: "get -f all.yaml -o yaml", texts: []string{"kind: ResourceClaim", "kind: CronJob"}},
	{line: "describe rc,limits,quota,pvc,secret,sa,svc,pod,rs,sts,ds,job,cronjob,hpa,pdb,ing,netpol,endpointslice,lease",
		texts: []string{"sts", "Schedule:", "Min available:"}},
	{line: "describe -f all.yaml", only: "built-in", texts: []string{"Name:", "sts", "Schedule:", "Min available:", "!panic"}},
	{line: "diff -f all.yaml"},
	{line: "apply --server-side --force-conflicts -f all.yaml", texts: []string{"serverside-applied"}},
	{line: "annotate -f all.yaml seen=yes", texts: []string{"annotated"}},
	{line: "delete -f all.yaml --wait=false", texts: []string{"deleted"}},
}
