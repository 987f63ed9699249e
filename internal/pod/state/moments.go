package state

// PodMoment is a point in a pod's life of which plugins are told.
type PodMoment uint8

// The moments. An error keeps a pod from running; later ones are only logged.
const (
	PodRun     PodMoment = iota // it is complete; containers can come
	PodUpdated                  // UpdatePod was done
	PodStop                     // its containers have ended; it still stands
	PodRemove                   // nothing is left of it
)

// ContainerMoment is a point in a container's life of which plugins are told.
type ContainerMoment uint8

// The moments. An error at ContainerStart keeps the container from starting.
const (
	ContainerCreated ContainerMoment = iota
	ContainerStart
	ContainerStarted
	ContainerUpdated
	ContainerStop // it has ended, whoever ended it
	ContainerRemove
)
