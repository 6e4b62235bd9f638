package report

// Alerts are those that the message was made of, the gravest first.
func (m Message) Alerts() []Alert { return m.alerts }
