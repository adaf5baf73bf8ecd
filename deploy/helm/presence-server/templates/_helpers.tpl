{{- define "presence.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "presence.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "presence.selector" -}}
app.kubernetes.io/name: {{ include "presence.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "presence.labels" -}}
{{ include "presence.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "presence.secret" -}}
{{- .Values.secrets.existingSecret | default (include "presence.fullname" .) -}}
{{- end -}}

{{/* preStop, drain_delay_ms and drain_ms together, rounded up, and the margin. */}}
{{- define "presence.grace" -}}
{{- $drain := add .Values.drain.delayMs .Values.drain.ms -}}
{{- add .Values.drain.preStopSeconds (div (add $drain 999) 1000) .Values.drain.marginSeconds -}}
{{- end -}}
