{{- define "wdt-connector.name" -}}
{{- if contains "wdt-connector" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-wdt-connector" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "wdt-connector.selector" -}}
app.kubernetes.io/name: wdt-connector
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "wdt-connector.labels" -}}
{{ include "wdt-connector.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
