{{- define "metamorphosis.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "metamorphosis.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "metamorphosis.labels" -}}
{{ include "metamorphosis.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "metamorphosis.mqttPort" -}}
{{- if .Values.mqtt.tlsSecret }}8883{{ else }}1883{{ end -}}
{{- end -}}

{{- define "metamorphosis.config" -}}
listener {{ include "metamorphosis.mqttPort" . }}
{{- if .Values.mqtt.tlsSecret }}
certfile /mosquitto/secrets/mqtt-tls/tls.crt
keyfile /mosquitto/secrets/mqtt-tls/tls.key
{{- end }}
{{- if not (or .Values.mqtt.passwordsSecret .Values.mqtt.allowAnonymous .Values.mqtt.extraConfig) }}
{{- fail "nobody could connect: give mqtt.passwordsSecret, or set mqtt.allowAnonymous" }}
{{- end }}
allow_anonymous {{ .Values.mqtt.allowAnonymous }}
{{- if .Values.mqtt.passwordsSecret }}
password_file /mosquitto/secrets/mqtt/passwords
{{- end }}
persistence true
persistence_location /mosquitto/data/
log_dest stdout
{{- with .Values.mqtt.extraConfig }}
{{ trim . }}
{{- end }}

plugin {{ .Values.pluginPath }}
plugin_opt_mqtt_topic {{ .Values.mqttTopic }}
plugin_opt_kafka_broker {{ required "kafka.brokers is required: host:port, several separated by commas" .Values.kafka.brokers }}
plugin_opt_kafka_port 9092
plugin_opt_kafka_topic {{ .Values.kafka.topic }}
{{- range .Values.kafka.routes }}
plugin_opt_route {{ . }}
{{- end }}
{{- with .Values.kafka }}
plugin_opt_kafka_security_protocol {{ .securityProtocol }}
{{- if and (ne .securityProtocol "plaintext") .secret }}
{{- if and (has .securityProtocol (list "ssl" "sasl_ssl")) .caInSecret }}
plugin_opt_kafka_tls_ca_file /mosquitto/secrets/kafka/ca.crt
{{- end }}
{{- if .clientCertificate }}
plugin_opt_kafka_tls_cert_file /mosquitto/secrets/kafka/tls.crt
plugin_opt_kafka_tls_key_file /mosquitto/secrets/kafka/tls.key
{{- end }}
{{- end }}
{{- if hasPrefix "sasl_" .securityProtocol }}
plugin_opt_kafka_sasl_mechanism {{ required "kafka.saslMechanism is required with SASL" .saslMechanism }}
plugin_opt_kafka_sasl_username {{ required "kafka.saslUsername is required with SASL" .saslUsername }}
{{- if not .secret }}{{ fail "kafka.secret is required with SASL: it holds the password" }}{{ end }}
plugin_opt_kafka_sasl_password_file /mosquitto/secrets/kafka/password
{{- end }}
{{- end }}
plugin_opt_spool_dir /mosquitto/data/spool
plugin_opt_spool_max_bytes {{ .Values.spool.maxBytes }}
plugin_opt_spool_sync {{ .Values.spool.sync }}
plugin_opt_when_full {{ .Values.spool.whenFull }}
plugin_opt_health_port 8080
plugin_opt_health_address all
{{- range $name, $value := .Values.options }}
plugin_opt_{{ $name }} {{ $value }}
{{- end }}
{{- end -}}
