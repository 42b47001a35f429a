package main

import (
	"fmt"
	"strings"
)

// The picture's measures, in pixels.
const (
	svgWidth  = 960
	svgMargin = 16
	svgLabel  = 190 // to the left of the bars
	svgBar    = 20
	svgGap    = 6
)

// phaseColour tells who is at work: govmm-run's call, the monitor, the guest.
var phaseColour = map[string]string{
	"begin": "#7a8fa6", "cli": "#7a8fa6", "start": "#7a8fa6", "gone": "#7a8fa6",
	"sandbox": "#d08a3e", "vm": "#d08a3e",
	"kernel": "#4f8a5b", "init": "#4f8a5b", "container": "#4f8a5b", "process": "#4f8a5b", "exit": "#4f8a5b",
}

// picture is an SVG that grows downwards.
type picture struct {
	body strings.Builder
	y    int
}

func (p *picture) text(x, size int, anchor, s string) {
	fmt.Fprintf(&p.body, `<text x="%d" y="%d" font-size="%d" text-anchor="%s">%s</text>`+"\n", x, p.y, size, anchor, escape(s))
}

func (p *picture) bar(x, width float64, colour, title string) {
	fmt.Fprintf(&p.body, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"><title>%s</title></rect>`+"\n",
		x, p.y, max(width, 1), svgBar, colour, escape(title))
}

// labelled draws a bar with its name to the left and its figure behind it.
func (p *picture) labelled(name, figure, title, colour string, x, width float64) {
	p.bar(x, width, colour, title)
	p.y += svgBar - 6
	p.text(svgLabel-8, 12, "end", name)
	fmt.Fprintf(&p.body, `<text x="%.1f" y="%d" font-size="11">%s</text>`+"\n", x+max(width, 1)+5, p.y, escape(figure))
	p.y += 6 + svgGap
}

func (p *picture) heading(s string) {
	p.y += 24
	p.text(svgMargin, 14, "start", s)
	p.y += 10
}

func (p *picture) String() string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif">`+"\n"+
		`<rect width="100%%" height="100%%" fill="white"/>`+"\n%s</svg>\n",
		svgWidth, p.y+svgMargin, svgWidth, p.y+svgMargin, p.body.String())
}

// timeline draws the phases of govmm-run's typical start one below the other on one axis, every subject's time to HELLO
// and to its exit, and the exits.
func (r *Result) timeline() string {
	p := &picture{}
	if s := r.subject(nameRun); s != nil {
		if t := s.typical(); t != nil {
			p.phases(t)
		}
	}
	p.subjects(r)
	for i := range r.Subjects {
		if s := &r.Subjects[i]; s.Guest != nil && s.Error == "" {
			p.exits(s)
		}
	}
	return p.String()
}

func (p *picture) phases(t *Sample) {
	p.heading("govmm-run run of busybox echo HELLO, in millions of instructions since the fork")
	p.y += 6
	p.text(svgMargin, 11, "start", "blue: govmm-run itself, orange: the monitor, green: the guest, and the monitor answering it")
	p.y += 8
	scale := float64(svgWidth-svgLabel-90) / float64(max(t.Exit, 1))
	top := p.y
	for _, s := range t.spans() {
		p.labelled(s.name, millions(s.end-s.begin), s.name+": "+phaseMeaning[s.name], phaseColour[s.name],
			svgLabel+float64(s.begin)*scale, float64(s.end-s.begin)*scale)
	}
	x := svgLabel + float64(t.Hello)*scale
	fmt.Fprintf(&p.body, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#b03030" stroke-dasharray="4 3"/>`+"\n", x, top, x, p.y)
	p.y += 12
	fmt.Fprintf(&p.body, `<text x="%.1f" y="%d" font-size="11" fill="#b03030" text-anchor="middle">HELLO %s</text>`+"\n", x, p.y, millions(t.Hello))
}

func (p *picture) subjects(r *Result) {
	longest := int64(1)
	for i := range r.Subjects {
		longest = max(longest, r.Subjects[i].exit().Median)
	}
	scale := float64(svgWidth-svgLabel-110) / float64(longest)
	group := ""
	for i := range r.Subjects {
		s := &r.Subjects[i]
		if s.Group != group {
			group = s.Group
			p.heading(group)
		}
		hello, exit := s.hello().Median, s.exit().Median
		top := p.y
		p.labelled(s.Name, millions(hello)+" / "+millions(exit), s.Name+" to exit: "+millions(exit), "#c9d3de", svgLabel, float64(exit)*scale)
		next := p.y
		p.y = top
		p.bar(svgLabel, float64(hello)*scale, "#7a8fa6", s.Name+" to HELLO: "+millions(hello))
		p.y = next
	}
}

func (p *picture) exits(s *Subject) {
	p.heading("exits of " + s.Name + " from guest mode, fork to HELLO")
	reasons := byCount(s.Guest.Exits)
	most := 1
	for _, reason := range reasons {
		most = max(most, s.Guest.Exits[reason])
	}
	for _, reason := range reasons[:min(len(reasons), 8)] {
		n := s.Guest.Exits[reason]
		p.labelled(reason, fmt.Sprint(n), fmt.Sprintf("%s: %d", reason, n), "#a58bb5", svgLabel, float64(n)*float64(svgWidth-svgLabel-90)/float64(most))
	}
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(s)
}
