package monitor

import "time"

// DeliverWithin bounds one delivery to a sink.
func DeliverWithin(m *Monitor, d time.Duration) { m.delivery = d }
