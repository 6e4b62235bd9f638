package monitor

import "time"

// IssuerTimes bounds one look at what a CT log serves beside a leaf, and all looks in
// vain together.
func IssuerTimes(m *Monitor, one, all time.Duration) { m.issuerTime, m.issuersTime = one, all }

// DeliverWithin bounds one delivery to a sink.
func DeliverWithin(m *Monitor, d time.Duration) { m.delivery = d }
