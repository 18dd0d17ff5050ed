package istio

import (
	"errors"
	"reflect"
	"slices"

	"github.com/altairalabs/omnia-gateway/config"
)

// keep adds to c, which is what the documents say, what the annotation says and the documents
// cannot. A key of the annotation counts if an export of it would say what the documents say: a
// format beside a mapping, an empty jwksUri, another spelling. A document that was edited since
// then wins.
func (i *importer) keep(c *config.Config) {
	said := *c
	kept := said
	kept.Authentication.JWTRules = slices.Clone(said.Authentication.JWTRules)
	problems := config.Read(i.annotation.place().String(), i.annotation.text(), &kept)
	for n := range problems {
		problems[n].Key = "annotation " + Annotation + ": " + problems[n].Key
	}
	if i.problems = append(i.problems, problems...); len(i.problems) > 0 {
		return
	}
	kept.Authentication.Enabled = true
	exported, err := (&exporter{c: &kept, o: Options{Selector: AgentLabels()}}).said()
	if err != nil {
		i.annotation.note("says what Istio cannot be told, and is ignored")
		return
	}
	*c = merge(kept, said, *exported)
}

// said is the configuration as the documents alone say it.
func (e *exporter) said() (*config.Config, error) {
	documents := e.documents()
	if len(e.errs) > 0 {
		return nil, errors.Join(e.errs...)
	}
	i := importer{reader: &reader{}, places: map[string]node{}}
	c := i.read([]File{{Name: "exported", Text: join(documents)}})
	if len(i.problems) > 0 {
		return nil, i.problems
	}
	return c, nil
}

// kept is the text of the annotation: what the documents do not say of the configuration.
func (e *exporter) kept() (string, error) {
	said, err := (&exporter{c: e.c, o: e.o}).said()
	if err != nil {
		return "", err
	}
	changes := config.Changes(e.c, said)
	for _, p := range changes {
		if p.Key == "authentication" {
			for n, q := range p.Value.(config.Mapping) {
				if q.Key == "jwt" { // the issuer whose keys these are
					jwt := q.Value.(config.Mapping)
					p.Value.(config.Mapping)[n].Value = slices.Insert(jwt, 0,
						config.Pair{Key: "issuer", Value: e.c.Authentication.JWT.Issuer})
				}
			}
		}
	}
	return changes.String(), nil
}

// merge takes from kept what does not change what is exported, and the rest from said.
func merge(kept, said, exported config.Config) config.Config {
	out := kept
	k, s, e := kept.Authentication, said.Authentication, exported.Authentication
	issuers := s.Issuers()
	for n, issuer := range issuers {
		named := func(j config.JWT) bool { return j.Issuer == issuer.Issuer }
		inKept, inExported := slices.IndexFunc(k.Issuers(), named), slices.IndexFunc(e.Issuers(), named)
		if inKept >= 0 && inExported >= 0 {
			issuers[n] = mergeFields(k.Issuers()[inKept], issuer, e.Issuers()[inExported])
		}
	}
	out.Authentication.JWT, out.Authentication.JWTRules = issuers[0], issuers[1:]
	out.Authentication.Authorization = mergeFields(k.Authorization, s.Authorization, e.Authorization)
	if !config.Same(s.EdgeTrust, e.EdgeTrust) { // its lists are one in the documents
		out.Authentication.EdgeTrust = s.EdgeTrust
	}
	out.Authentication.Enabled = s.Enabled
	return out
}

// mergeFields does so field by field.
func mergeFields[T any](kept, said, exported T) T {
	out, s, e := reflect.ValueOf(&kept).Elem(), reflect.ValueOf(said), reflect.ValueOf(exported)
	for n := range out.NumField() {
		if !config.Same(s.Field(n).Interface(), e.Field(n).Interface()) {
			out.Field(n).Set(s.Field(n))
		}
	}
	return kept
}
