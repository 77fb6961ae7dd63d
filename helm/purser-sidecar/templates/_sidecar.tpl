{{/*
Named templates that read .Values.purser of the app's chart; README.md lists the keys.

  purser-sidecar.container   an item of initContainers: a native sidecar, ready before the app starts, stopped after it
  purser-sidecar.volumes     items of volumes: the outbox (unless it is a claim), and TLS and token where they are asked for
  purser-sidecar.claim       an item of a StatefulSet's volumeClaimTemplates, when outbox.persistent is true
  purser-sidecar.env         an item of the app container's env: where the sidecar listens
*/}}

{{/* .Values.purser over the defaults, as YAML. A key that is not among the defaults is a typing error. */}}
{{- define "purser-sidecar.values" -}}
{{- $defaults := dict
      "image" (dict "repository" "purser-server" "tag" "0.1.0" "pullPolicy" "IfNotPresent")
      "controlPlane" ""
      "durability" "power_loss"
      "extraEnv" list
      "outbox" (dict "persistent" false "size" "1Gi" "storageClassName" "")
      "tls" (dict "existingSecret" "" "presentCertificate" false)
      "token" (dict "existingSecret" "" "key" "token")
      "resources" (dict "requests" (dict "cpu" "100m" "memory" "128Mi") "limits" (dict "memory" "512Mi"))
-}}
{{- $given := deepCopy (.Values.purser | default dict) -}}
{{- range $key := keys $given -}}
{{- if not (hasKey $defaults $key) -}}
{{- fail (printf "purser.%s is no value of purser-sidecar; there are: %s" $key (keys $defaults | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end -}}
{{- $values := mergeOverwrite $defaults $given -}}
{{- if not $values.controlPlane -}}
{{- fail "purser.controlPlane is missing: HOST:PORT of the control plane's gRPC, for instance purser.billing.svc:7080" -}}
{{- end -}}
{{- if not (has $values.durability (list "power_loss" "process_crash" "remote")) -}}
{{- fail (printf "purser.durability is power_loss, process_crash or remote, not %s" $values.durability) -}}
{{- end -}}
{{- toYaml $values -}}
{{- end }}

{{- define "purser-sidecar.container" -}}
{{- $purser := include "purser-sidecar.values" . | fromYaml -}}
- name: purser
  image: {{ $purser.image.repository }}:{{ $purser.image.tag }}
  imagePullPolicy: {{ $purser.image.pullPolicy }}
  restartPolicy: Always
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
  args: [sidecar, serve]
  env:
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: PURSER_NAME, value: $(POD_NAME)}
    - {name: PURSER_CONTROL_PLANE, value: {{ $purser.controlPlane | quote }}}
    - {name: PURSER_DATA, value: /var/lib/purser}
    - {name: PURSER_GRPC, value: "127.0.0.1:7070"}
    - {name: PURSER_HTTP, value: "0.0.0.0:7071"}
    - {name: PURSER_DURABILITY, value: {{ $purser.durability }}}
    {{- if $purser.tls.existingSecret }}
    - {name: PURSER_UPSTREAM_CA_FILE, value: /etc/purser-tls/ca.crt}
    {{- if $purser.tls.presentCertificate }}
    - {name: PURSER_UPSTREAM_CERT_FILE, value: /etc/purser-tls/tls.crt}
    - {name: PURSER_UPSTREAM_KEY_FILE, value: /etc/purser-tls/tls.key}
    {{- end }}
    {{- end }}
    {{- if $purser.token.existingSecret }}
    - {name: PURSER_UPSTREAM_TOKEN_FILE, value: "/etc/purser-token/{{ $purser.token.key }}"}
    {{- end }}
    {{- with $purser.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    # Health and metrics, for the kubelet and Prometheus. Apps are served on the pod's loopback only.
    - {name: purser-http, containerPort: 7071}
  startupProbe:
    httpGet: {path: /livez, port: purser-http}
    periodSeconds: 1
    timeoutSeconds: 5
    failureThreshold: 60
  livenessProbe:
    httpGet: {path: /livez, port: purser-http}
    periodSeconds: 10
    timeoutSeconds: 5
  readinessProbe:
    httpGet: {path: /readyz, port: purser-http}
    periodSeconds: 5
    timeoutSeconds: 5
  resources: {{- toYaml $purser.resources | nindent 4 }}
  volumeMounts:
    - {name: purser-outbox, mountPath: /var/lib/purser}
    - {name: purser-tmp, mountPath: /tmp}
    {{- if $purser.tls.existingSecret }}
    - {name: purser-tls, mountPath: /etc/purser-tls, readOnly: true}
    {{- end }}
    {{- if $purser.token.existingSecret }}
    - {name: purser-token, mountPath: /etc/purser-token, readOnly: true}
    {{- end }}
{{- end }}

{{- define "purser-sidecar.volumes" -}}
{{- $purser := include "purser-sidecar.values" . | fromYaml -}}
{{- if not $purser.outbox.persistent }}
# As old as the pod: survives a restart of the container, not the pod's removal. The sidecar drains it on SIGTERM.
- name: purser-outbox
  emptyDir: {sizeLimit: {{ $purser.outbox.size }}}
{{- end }}
- name: purser-tmp
  emptyDir: {}
{{- with $purser.tls.existingSecret }}
- name: purser-tls
  secret: {secretName: {{ . }}}
{{- end }}
{{- with $purser.token.existingSecret }}
- name: purser-token
  secret: {secretName: {{ . }}}
{{- end }}
{{- end }}

{{- define "purser-sidecar.claim" -}}
{{- $purser := include "purser-sidecar.values" . | fromYaml -}}
- metadata: {name: purser-outbox}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with $purser.outbox.storageClassName }}
    storageClassName: {{ . }}
    {{- end }}
    resources: {requests: {storage: {{ $purser.outbox.size }}}}
{{- end }}

{{- define "purser-sidecar.env" -}}
- {name: PURSER_SIDECAR, value: "127.0.0.1:7070"}
{{- end }}
