{{- define "omnia-gateway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "omnia-gateway.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "omnia-gateway.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "omnia-gateway.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "omnia-gateway.selector" -}}
app.kubernetes.io/name: {{ include "omnia-gateway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "omnia-gateway.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "omnia-gateway.selector" . }}
app.kubernetes.io/component: gateway
app.kubernetes.io/part-of: omnia
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "omnia-gateway.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "omnia-gateway.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* Whether the gateway terminates TLS itself: "true" or nothing. In a mesh the sidecars do. */}}
{{- define "omnia-gateway.tls" -}}
{{- if and .Values.tls.secretName (not .Values.istio.enabled) }}true{{ end }}
{{- end }}

{{- /* The name of the public port, from which Istio takes its protocol, too. */}}
{{- define "omnia-gateway.port" -}}
{{- if include "omnia-gateway.tls" . }}https{{ else }}http{{ end }}
{{- end }}

{{- /* A duration of Go in whole seconds, rounded up. */}}
{{- define "omnia-gateway.seconds" -}}
{{- $zero := toDate "2006-01-02" "2000-01-01" }}
{{- $end := mustDateModify (printf "+%s" .) $zero }}
{{- $seconds := sub ($end | unixEpoch | int64) ($zero | unixEpoch | int64) }}
{{- if regexMatch `[0-9](ms|us|µs|ns)` . }}{{ add $seconds 1 }}{{ else }}{{ $seconds }}{{ end }}
{{- end }}

{{- /* How long sessions may take to end: drainDelay and drainTimeout. */}}
{{- define "omnia-gateway.drain" -}}
{{- $session := .Values.config.session | default dict }}
{{- add (include "omnia-gateway.seconds" ($session.drainTimeout | default "30s")) (include "omnia-gateway.seconds" ($session.drainDelay | default "0s")) }}
{{- end }}

{{- /* Nine tenths of the memory limit, in bytes; nothing if there is no limit. */}}
{{- define "omnia-gateway.memory" -}}
{{- $limit := dig "limits" "memory" "" (.Values.resources | default dict) }}
{{- if kindIs "float64" $limit }}
{{- $limit = int64 $limit }}
{{- end }}
{{- $limit = toString $limit }}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $unit := regexFind `[A-Za-z]*$` $limit }}
{{- if and (regexMatch `^[0-9]+([.][0-9]+)?[A-Za-z]*$` $limit) (hasKey $units $unit) }}
{{- divf (mulf (regexFind `^[0-9.]+` $limit) (get $units $unit) 9) 10 | floor | int64 }}
{{- end }}
{{- end }}

{{- /* The gateway's configuration file. */}}
{{- define "omnia-gateway.config" -}}
{{- if not .Values.config.routes }}
{{- fail "config.routes: no routes; say where requests go, such as {path: /my-agent, upstream: http://my-agent:8080}" }}
{{- end }}
{{- if and .Values.authentication.enabled (not .Values.authentication.jwt.issuer) (not (dig "clientKeys" "file" "" .Values.authentication)) }}
{{- fail "authentication.jwt.issuer: missing; write it exactly as in the claim iss, such as https://issuer.example.com" }}
{{- end }}
{{- $config := deepCopy .Values.config }}
{{- $authentication := deepCopy .Values.authentication }}
{{- if .Values.istio.enabled }}
{{- /* The agents' sidecars verify the token as well; they take it away where the values say so. */}}
{{- range concat (list $authentication.jwt) ($authentication.jwtRules | default list) }}
{{- $_ := set . "forwardOriginalToken" true }}
{{- end }}
{{- end }}
{{- $_ := set $config "authentication" $authentication }}
{{- $_ := set $config "admin" (mergeOverwrite (deepCopy ($config.admin | default dict)) (dict "metricsListen" ":9091")) }}
{{- if include "omnia-gateway.tls" . }}
{{- $tls := dict "certFile" "/etc/omnia/tls/tls.crt" "keyFile" "/etc/omnia/tls/tls.key" "minVersion" .Values.tls.minVersion }}
{{- if .Values.tls.clientCA.secretName }}
{{- $_ := set $tls "clientCAFile" (printf "/etc/omnia/client-ca/%s" .Values.tls.clientCA.key) }}
{{- end }}
{{- $_ := set $config "tls" $tls }}
{{- $_ := set $config "listen" ":8443" }}
{{- else }}
{{- $_ := set $config "listen" ":8080" }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{- /* The labels of the agents' pods; none would select every pod of the namespace. */}}
{{- define "omnia-gateway.agents" -}}
{{- if not .selector }}
{{- fail "selector: no labels; it would select every pod of the namespace" }}
{{- end }}
{{- toYaml .selector }}
{{- end }}

{{- /*
The spellings of header names that a server may take for one: each dash may be an underscore or a dot. Of a fifth dash they keep the dash,
as the list grows by three with each.
*/}}
{{- define "omnia-gateway.spellings" -}}
{{- $all := list }}
{{- range . }}
{{- $spellings := list "" }}
{{- range $i, $part := lower . | replace "_" "-" | replace "." "-" | splitList "-" }}
{{- $separators := list "" }}
{{- if gt $i 0 }}
{{- $separators = ternary (list "-" "_" ".") (list "-") (le $i 4) }}
{{- end }}
{{- $longer := list }}
{{- range $prefix := $spellings }}
{{- range $separators }}
{{- $longer = append $longer (print $prefix . $part) }}
{{- end }}
{{- end }}
{{- $spellings = $longer }}
{{- end }}
{{- $all = concat $all $spellings }}
{{- end }}
{{- $all | join " " }}
{{- end }}
