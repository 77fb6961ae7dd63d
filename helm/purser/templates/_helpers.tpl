{{- define "purser.fullname" -}}
{{- if contains "purser" .Release.Name -}}
{{ .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-purser" .Release.Name | trunc 53 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "purser.selector" -}}
app.kubernetes.io/name: purser
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "purser.labels" -}}
{{ include "purser.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "purser.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "purser.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (include "purser.fullname" .) }}
{{- end }}

{{/* Runs as nobody in particular and writes to nothing but /tmp. */}}
{{- define "purser.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "purser.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "purser.databaseEnv" -}}
- name: PURSER_DATABASE
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.existingSecret }}
      key: {{ .Values.database.key }}
{{- end }}

{{/* REST leaves the loopback only with a token. */}}
{{- define "purser.restIsExposed" -}}
{{- if .Values.adminToken.existingSecret }}true{{ end -}}
{{- end }}

{{/* What the control plane would refuse to start with is refused here. */}}
{{- define "purser.check" -}}
{{- if not (or .Values.sidecarToken.existingSecret .Values.tls.verifyClients) -}}
{{- fail "sidecarToken.existingSecret is empty: name a Secret with the token, or say tls.verifyClients: true" -}}
{{- end -}}
{{- end }}

{{/* Settings as environment variables; docs/configuration.md has them all. */}}
{{- define "purser.listenEnv" -}}
- {name: PURSER_CONFIG, value: /etc/purser/purser.yaml}
- {name: PURSER_GRPC, value: "0.0.0.0:7080"}
- {name: PURSER_HTTP, value: "{{ if include "purser.restIsExposed" . }}0.0.0.0{{ else }}127.0.0.1{{ end }}:7081"}
- {name: PURSER_TLS_CERTIFICATE, value: /etc/purser-tls/tls.crt}
- {name: PURSER_TLS_KEY, value: /etc/purser-tls/tls.key}
{{- if .Values.tls.verifyClients }}
- {name: PURSER_TLS_CLIENT_AUTHORITY, value: /etc/purser-tls/ca.crt}
{{- end }}
{{- if .Values.sidecarToken.existingSecret }}
- {name: PURSER_SYNC_TOKEN_FILE, value: "/etc/purser-sidecars/{{ .Values.sidecarToken.key }}"}
{{- end }}
{{- if .Values.adminToken.existingSecret }}
- {name: PURSER_ADMIN_TOKEN_FILE, value: "/etc/purser-admin/{{ .Values.adminToken.key }}"}
{{- end }}
{{- end }}

{{/* The kubelet can not reach the loopback; there a probe asks from inside the container. */}}
{{- define "purser.probe" -}}
{{- if include "purser.restIsExposed" .root -}}
httpGet: {path: {{ .path }}, port: http, scheme: HTTPS}
{{- else -}}
exec:
  command: [python, -c, "import ssl, urllib.request as r; r.urlopen('https://127.0.0.1:7081{{ .path }}', timeout=4, context=ssl._create_unverified_context())"]
{{- end -}}
{{- end }}
