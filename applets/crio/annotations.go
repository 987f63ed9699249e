package crio

import (
	"strings"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/manual"
)

// annotationSections tell in crio.conf(5) what pods may ask for by annotations, and of
// hooks.
func annotationSections() []manual.Block {
	blocks := []manual.Block{
		manual.Heading("Annotations"),
		manual.Text("Whoever may make a pod writes its annotations. Those below act only if allowed_annotations of the pod's handler names them, or of a workload whose activation_annotation the pod bears; otherwise they are taken away before the runtime, hooks or plugins see them. Names are compared exactly, in either spelling; where a pod has both, the newer one counts. NAME/CONTAINER is for one container and wins over NAME. The default handler allows " + annotation.Devices + " unless it has a list of its own, which may be empty. Annotations of images and checkpoints never act, nor do annotations below io.kubernetes.cri-o. or of the domain crio.io that are not in this list: under those names the daemon itself notes in config.json what it did."),
	}
	for _, k := range annotation.Table() {
		name := k.Name
		if k.Prefix {
			name += "..."
		}
		if k.Scoped {
			name += "[/CONTAINER]"
		}
		text := strings.ToUpper(k.Effect[:1]) + k.Effect[1:] + "."
		if k.Old != "" {
			text += " Older name: " + k.Old + "."
		}
		if k.Inert {
			text += " It has no effect yet."
		}
		blocks = append(blocks, manual.Term(name, text))
	}
	return append(blocks,
		manual.Term("kubernetes.io/ingress-bandwidth, kubernetes.io/egress-bandwidth", "Limits of the pod's network, for the CNI plugin bandwidth. They need no permission."),
		manual.Sub("User namespaces"),
		manual.Text("auto takes size ids (65536 unless said otherwise) that no other pod has, from those that /etc/subuid and /etc/subgid set aside for the user containers. keep-id=true gives the pod's run_as_user and run_as_group the same ids on the node, map-to-root=true makes them root in the pod. uidmapping and gidmapping are CONTAINER:HOST:SIZE, several parted by commas: in mode auto they are put over the free ids, in mode private they are all there is. Options are parted by semicolons: auto:size=2000;keep-id=true."),
		manual.Heading("Workloads"),
		manual.Text("Resources of a workload win over those of the request. The pod's annotation ANNOTATION_PREFIX/CONTAINER, a JSON object such as {\"cpushares\": 200, \"cpuset\": \"0-1\"}, wins over the workload's. cpulimit and cpuquota exclude each other."),
		manual.Heading("OCI hooks"),
		manual.Text("The folders of hooks_dir are looked at for each container, and read again if names, times or sizes in them changed. A file that cannot be used is told in the log, with the cause, and passed over: containers start without it. Conditions see the annotations that the container has in the end. Hooks run for containers, not for pause processes."),
	)
}
