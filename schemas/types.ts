// Made from schemas/*.json by `npm run generate`. Change those, not this.

/**
 * @maxItems 1000
 * 
 * Items: An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
export type Projects = string[]
/**
 * Names, or patterns with * and ?.
 * 
 * @maxItems 1000
 * 
 * Items: an instance's name, or a pattern of letters, digits, hyphens, * and ?
 */
export type Patterns = string[]
/**
 * Names or patterns of instances to leave out.
 * 
 * @maxItems 1000
 * 
 * Items: an instance's name, or a pattern of letters, digits, hyphens, * and ?
 */
export type Patterns1 = string[]
/**
 * Only instances of these projects. Default: all projects that the client may use.
 * 
 * @maxItems 1000
 * 
 * Items: An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
export type Projects1 = string[]
/**
 * By name.
 */
export type Instances = InstanceStatus[]
/**
 * Sorted by instance and name.
 */
export type Backups = ListedBackup[]
/**
 * A backup; while it is being made, with its status and progress.
 */
export type ShownBackup = (ListedBackup & {
/**
 * A note about the backup, for people.
 */
notes?: string
/**
 * `pool/volume` of each custom volume that was attached. LXD's exports do not contain these volumes.
 */
excluded_volumes?: string[]
/**
 * Size of the uncompressed archive in bytes.
 */
raw_size?: number
/**
 * How the archive is compressed.
 */
compression_algorithm?: ("gzip" | "zstd" | "none")
/**
 * `container` or `virtual-machine`.
 */
type?: string
architecture?: string
/**
 * The storage pool that the instance was in.
 */
pool?: string
/**
 * The driver of this pool.
 */
driver?: string
profiles?: string[]
snapshots?: string[]
/**
 * Version of the LXD or Incus that made the backup; `unknown` for an upload.
 */
server_version?: string
/**
 * The version of lxstow that wrote the backup.
 */
writer?: string
status?: ("Pending" | "Running" | "Cancelling" | "Success" | "Failure" | "Cancelled")
/**
 * What the operation is doing now.
 */
stage?: string
bytes_done?: number
bytes_total?: number
bytes_per_second?: number
progress?: number
/**
 * Path of the operation that is making the backup.
 */
operation?: string
})
/**
 * By name.
 */
export type Schedules = ShownSchedule[]
/**
 * The earliest first.
 */
export type Times = ScheduledAt[]
/**
 * A chunk of a run's children, in the bucket lxstow_runs under <id>.plan.<plan>.<nnn>.
 * 
 * @maxItems 500
 */
export type RunPlan = RunChild[]

export interface Everything {
"backup-index.json"?: IndexedBackup
"config.json"?: Config
"http-answers.json"?: HttpAnswers
"http-certificate-put.json"?: CertificatePutBody
"http-certificates-post.json"?: CertificatesPostBody
"http-create-backup.json"?: CreateBackupBody
"http-create-run.json"?: CreateRunBody
"http-prune.json"?: PruneBody
"http-restore-backup.json"?: RestoreBackupBody
"http-retry-run.json"?: RetryRunBody
"http-schedule-pause.json"?: SchedulePauseBody
"http-schedule.json"?: ScheduleBody
"http-schedules-post.json"?: SchedulesPostBody
"http-update-backup.json"?: UpdateBackupBody
"instance-record.json"?: InstanceRecord
"job-backup.json"?: BackupJob
"job-delete.json"?: DeleteJob
"job-prune.json"?: PruneJob
"job-restore.json"?: RestoreJob
"keep-rule.json"?: KeepRule1
"manifest.json"?: Manifest
"names.json"?: Names
"nats-api.json"?: NatsApi
"notice.json"?: Notice
"operation.json"?: Operation
"outage.json"?: Outage
"progress.json"?: Progress
"read-answers.json"?: ReadAnswers
"requestor.json"?: Requestor
"run-answers.json"?: RunAnswers
"run-plan.json"?: RunPlan
"run.json"?: Run
"schedule.json"?: Schedule
"trust-end.json"?: TrustEnd
"trust-token.json"?: TrustToken
"trusted-certificate.json"?: TrustedCertificate
}
/**
 * A line of the index of a project's backups: what lists show of a backup. With it, a list need not read the backup's manifest. lxstow uses the line only if the store lists the manifest with the same ETag and size.
 */
export interface IndexedBackup {
instance: string
name: string
/**
 * ETag of the manifest.
 */
etag: string
/**
 * Size of the manifest in bytes.
 */
manifestSize: number
created: string
/**
 * Bytes of the archive.
 */
size: number
optimized: boolean
compressed: boolean
instance_only: boolean
tags: Tags
pinned: boolean
/**
 * True: the backup has a legal hold in the store.
 */
held: boolean
/**
 * Null if it was never locked. May be in the past.
 */
locked_until: (string | null)
}
/**
 * S3 object tags, within limits that every store accepts: at most 10, with ASCII letters, digits, space and + - = . _ : / @.
 */
export interface Tags {
/**
 * a tag's value: up to 256 of ASCII letters, digits, space and + - = . _ : / @
 */
[k: string]: string
}
/**
 * One file for gateways and workers. Each key can also be set by an environment variable: LXSTOW_S3_ACCESS_KEY sets s3.accessKey, and LXSTOW_S3_ACCESS_KEY_FILE names a file that contains its value.
 */
export interface Config {
nats: NatsConfig
s3: S3Config
/**
 * The LXD and Incus hosts, by name. A gateway needs only the names.
 */
remotes: {
[k: string]: RemoteConfig
}
gateway: GatewayConfig
worker: WorkerConfig
notify: NotifyConfig
gzip: GzipConfig
log: LogConfig
}
export interface NatsConfig {
/**
 * Addresses of the NATS servers, all of one cluster.
 * 
 * @minItems 1
 */
servers: string[]
/**
 * User, if the servers require one.
 */
user?: string
/**
 * Password of `nats.user`.
 */
password?: string
/**
 * Token, instead of user and password.
 */
token?: string
/**
 * Path of a .creds file.
 */
credentials?: string
/**
 * Path of a file with an NKey's seed (`nk -gen user`).
 */
nkey?: string
/**
 * Beginning of the subjects to which answers are sent. Default: `_INBOX`. Give each NATS user its own, such as `_INBOX_gateway`, so that no user can read another's answers.
 */
inboxPrefix?: string
/**
 * Path of a PEM file: the CA of the servers' certificates.
 */
ca?: string
/**
 * Path of a PEM file: lxstow's client certificate.
 */
certificate?: string
/**
 * Path of a PEM file: the key of `nats.certificate`.
 */
key?: string
/**
 * Start TLS before the server's greeting. Needed for servers with `handshake_first: true`, not for those with `auto`.
 */
tlsFirst?: boolean
/**
 * Replicas of each stream and bucket that `lxstow setup` creates.
 */
replicas: number
/**
 * How long the record of a finished operation is kept.
 */
operationsKeptHours: number
/**
 * How long a finished run is kept, and can be retried.
 */
runsKeptHours: number
/**
 * Largest number of queued jobs. Further jobs are refused with 503.
 */
maxQueuedJobs: number
}
export interface S3Config {
/**
 * URL of the S3 server, with http:// or https://.
 */
endpoint: string
/**
 * `lxstow standalone` keeps backups in this folder, and runs the S3 server VersityGW for the folder at `endpoint` ([s3.md](s3.md#a-folder-as-the-store)). Set this key instead of accessKey and secretKey.
 */
folder?: string
/**
 * A folder on the disk of an S3 server that runs on this host and keeps new objects in memory for a while, as VersityGW and SeaweedFS do. lxstow then relies on an object only after `sync -f` has written it to that disk, so a power cut loses no backup. Default: `folder`, if it is set.
 */
syncFolder?: string
/**
 * URL at which clients reach the same server, for presigned URLs. Default: `endpoint`.
 */
publicEndpoint?: string
/**
 * Name of the bucket. `lxstow setup` creates it if it does not exist.
 */
bucket: string
/**
 * Region for which requests are signed.
 */
region: string
/**
 * S3 access key.
 */
accessKey: string
/**
 * S3 secret key.
 */
secretKey: string
/**
 * Session token of temporary keys, as AWS's STS issues them. When the store refuses the keys, lxstow reads the configuration file, the environment and the files that `…_FILE` names again.
 */
sessionToken?: string
/**
 * Whether parts are sent with `x-amz-checksum-crc32`. Set it to false for stores that refuse this header (Backblaze B2). Parts then have Content-MD5, which costs CPU time.
 */
checksumHeaders: boolean
/**
 * Beginning of each object's key, without a slash at either end.
 */
prefix: string
/**
 * Path of a PEM file: the CA of the server's certificate.
 */
ca?: string
/**
 * true: the URL of an object is endpoint/bucket/key. false: it is bucket.endpoint/key.
 */
pathStyle: boolean
/**
 * A request fails if no byte moves for this long.
 */
idleTimeoutMs: number
/**
 * Age at which lxstow replaces a multipart upload by a new one. Some stores remove an upload one day after its beginning, even if it is still in progress: MinIO does so by default, others by a rule of the bucket.
 */
uploadMaxAgeMs: number
/**
 * The largest number of days for which a backup may be locked by Object Lock. Without a limit (the default), anyone who may make backups can fill the store with backups that nobody can delete.
 */
longestLockDays?: number
/**
 * Tries of each request, including the first.
 */
attempts: number
}
/**
 * With `url`, lxstow connects to LXD or Incus over HTTPS; without it, by the unix socket.
 */
export interface RemoteConfig {
/**
 * Path of LXD's or Incus's unix socket. Default: $LXD_DIR/unix.socket, $INCUS_SOCKET or $INCUS_DIR/unix.socket, otherwise the socket of the installed server: LXD's snap, /var/lib/lxd or /var/lib/incus. If both LXD and Incus are installed, this key must be set.
 */
socket?: string
/**
 * HTTPS address of LXD or Incus. Its port is 8443 if it names none.
 */
url?: string
/**
 * How many backups and restores run at a time, on all workers of this host together. Default: as many as the workers have slots.
 */
transfers?: number
/**
 * How many backups and restores run at a time for each of the host's storage pools. An instance counts for the pool of its root disk.
 */
transfersPerPool?: number
/**
 * Storage pools that have a different limit: `{"ssd": {"transfers": 4}}`.
 */
pools?: {
[k: string]: PoolConfig
}
/**
 * Path of a PEM file: lxstow's client certificate, which this host must trust.
 */
certificate?: string
/**
 * Path of a PEM file: the key of the client certificate.
 */
key?: string
/**
 * Path of a PEM file: the only certificate that lxstow accepts from the LXD or Incus server.
 */
serverCertificate?: string
}
export interface PoolConfig {
/**
 * How many backups and restores of this pool run at a time, on all workers of the host together.
 */
transfers?: number
}
export interface GatewayConfig {
/**
 * Address on which the API listens; 0.0.0.0 or :: for all interfaces.
 */
address: string
/**
 * Port of the API, over HTTPS.
 */
port: number
/**
 * Address on which `healthPort` listens; 0.0.0.0 or :: for all interfaces.
 */
healthAddress: string
/**
 * Port of /healthz, /readyz and /metrics, over plain HTTP.
 */
healthPort: number
/**
 * Path of a PEM file: the gateway's certificate. Without this key, the gateway creates a self-signed certificate in `stateDir`.
 */
certificate?: string
/**
 * Path of a PEM file: the key of `gateway.certificate`.
 */
key?: string
/**
 * Directory for the certificate that the gateway creates. Default: $STATE_DIRECTORY, or ~/.local/state/lxstow.
 */
stateDir?: string
/**
 * Directory of PEM files. The client certificates in them are trusted, as admins. The gateway reads the directory again when it changes.
 */
trustDir?: string
/**
 * Path of a PEM file: client certificates that this CA has signed are trusted, as admins.
 */
trustCa?: string
/**
 * Addresses at which clients reach the gateway, as host:port. Tokens contain them. Default: the address on which it listens.
 * 
 * @minItems 1
 */
advertise?: string[]
/**
 * How long a token can be used, unless the request for the token says otherwise.
 */
tokenExpiryHours: number
/**
 * How many calls of untrusted clients from one address may be refused per minute. Above this number, their calls get 429. Attempts to use a token are counted separately; a wrong token adds 10.
 */
refusalsPerMinute: number
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
defaultRemote: string
/**
 * Largest JSON body of a request; for a client that is not trusted, at most 64 KiB. Uploaded archives may be larger.
 */
bodyLimitBytes: number
/**
 * How long the gateway waits for a worker to delete a backup before it answers the DELETE request.
 */
deleteTimeoutMs: number
/**
 * How long the gateway waits for a worker's answer to a look-up.
 */
askTimeoutMs: number
/**
 * How long the gateway waits for the workers to list instances, projects and storage pools. It leaves out hosts that take longer.
 */
inventoryTimeoutMs: number
/**
 * An instance whose last backup is older than this is overdue ([status.md](status.md)). The default, a day and two hours, suits daily backups.
 */
backupMaxAgeHours: number
/**
 * How many exports and uploads run at a time. Each keeps two to six parts in memory. Further requests get 503. Of uploads that announce more than 450 GiB, one runs at a time.
 */
transfers: number
/**
 * How many exports and uploads one client may run at a time, so that other clients can run some, too. Default: half of `transfers`, rounded up.
 */
transfersPerClient?: number
/**
 * Whether clients that are restricted to projects may upload or restore what LXD refuses in restricted projects: privileged containers, `raw.*`, devices and paths of the host, … If LXD restricts the project, LXD itself decides ([security.md](security.md#what-restricted-clients-may-restore)).
 */
restrictedRestores: ("refuse" | "allow")
/**
 * The gateway disconnects a client whose export or upload transfers nothing for this long, or less than 1 KiB for each second of this time.
 */
clientIdleTimeoutMs: number
}
export interface WorkerConfig {
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
remote: string
/**
 * How many backups and restores the worker runs at a time. Each takes about 100 MB of memory.
 */
slots: number
/**
 * How many attempts a job has before it fails for good. Attempts that an outage ended do not count.
 */
attempts: number
/**
 * How long a job waits while S3 or LXD is away, is full, or rejects lxstow's credentials, before the job fails for good.
 */
patienceHours: number
/**
 * How long running jobs may continue after SIGTERM before they return to the queue.
 */
graceMs: number
/**
 * Address on which `healthPort` listens; 0.0.0.0 or :: for all interfaces.
 */
healthAddress: string
/**
 * Port of /healthz, /readyz and /metrics, over plain HTTP.
 */
healthPort: number
/**
 * A worker that does not renew its lease for this long counts as dead.
 */
leaseTtlMs: number
/**
 * How often the worker renews its leases, and tells NATS that it is still working on its jobs.
 */
heartbeatMs: number
/**
 * An LXD operation or export fails if it makes no progress for this long.
 */
lxdIdleTimeoutMs: number
/**
 * How much all slots together may read per second: from LXD for backups, from the store for restores. `20MiB`, `off`, or a timetable in the worker's time zone, such as `08:00,512KiB 19:00,10MiB 23:00,off` ([limits.md](limits.md)).
 */
bandwidth: string
/**
 * How many parts of 16 MiB a backup sends at the same time, while it fills another one. A larger number helps only if the store is far away.
 */
partsInFlight: number
/**
 * How much of an export the worker sends while LXD is still writing it. 0: sending begins only when LXD reports that the export is complete.
 */
sendAheadMiB: number
/**
 * The compression if a job does not choose one.
 */
compression: ("gzip" | "zstd" | "none")
/**
 * How often the worker looks for leftovers and removes them. 0: only `lxstow janitor` does so.
 */
janitorEveryMinutes: number
/**
 * The age at which a leftover that belongs to no known operation is removed. For an archive without its manifest: how long after a worker has first found it so.
 */
janitorGraceHours: number
/**
 * How often the workers of a host list its instances, for `lxstow status`.
 */
inventoryEverySeconds: number
}
export interface NotifyConfig {
/**
 * Webhooks: URLs that get a notice when an operation or a run ends ([notifications.md](notifications.md)). `lxstow config` shows only their hosts.
 * 
 * @maxItems 20
 * 
 * Items: an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
endpoints: string[]
/**
 * Which outcomes are posted to `notify.endpoints`. A webhook that a request names gets a notice whatever the outcome is.
 * 
 * @minItems 1
 */
events: ("success" | "failed" | "cancelled")[]
/**
 * Whether `endpoints` also get a notice of each backup and prune of a run. The notice of the run itself has counts and the first failures.
 */
children: boolean
/**
 * The secret that signs notices: `whsec_` and the base64 of 24 bytes or more. To change it, set several secrets, separated by spaces: notices are then signed with each. Without a secret, notices are not signed.
 */
secret?: string
/**
 * Whether a request or a job may name a webhook of its own, as `notifyEndpoint`.
 */
requests: boolean
/**
 * What the URL of a webhook in a request must begin with, such as `https://hooks.example.net/backups`. If the list is empty, any address on the Internet is allowed, but no address of this host or of a private network.
 * 
 * Items: an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
allowed: string[]
/**
 * Path of a PEM file: CAs for the webhooks' certificates, instead of the system's CAs.
 */
ca?: string
/**
 * How long a webhook may take to answer.
 */
timeoutMs: number
/**
 * If a notice cannot be delivered for this long, the gateway gives up, and logs the failure.
 */
giveUpAfterHours: number
}
export interface GzipConfig {
/**
 * The ISA-L library, by name or path (Debian: package libisal2). It compresses, and computes CRC-32, with a third of zlib's CPU time. If it cannot be used, or if this key is empty, lxstow uses zlib.
 */
library: string
}
export interface LogConfig {
/**
 * The least severe level that is logged.
 */
level: ("error" | "warn" | "info" | "debug")
/**
 * auto: text on a terminal, otherwise JSON.
 */
format: ("json" | "text" | "auto")
}
/**
 * The answers of the REST API, in LXD's envelopes. Clients must accept additional fields.
 */
export interface HttpAnswers {
[k: string]: unknown
}
/**
 * The body of PUT and PATCH /1.0/certificates/{fingerprint}: LXD's fields, and a role. As in LXD, unknown fields are ignored.
 */
export interface CertificatePutBody {
/**
 * A client's name, for people: up to 255 printable characters.
 */
name?: string
type?: ("" | "client")
/**
 * PEM; it cannot be changed.
 */
certificate?: string
restricted?: boolean
projects?: (null | Projects)
/**
 * An admin may do everything; an operator may make, restore and delete backups; a viewer may only see them.
 */
role?: ("admin" | "operator" | "viewer")
}
/**
 * The body of POST /1.0/certificates: LXD's fields, a role and an expiry. As in LXD, unknown fields are ignored.
 */
export interface CertificatesPostBody {
name?: (("" | string) & string)
type?: ("" | "client")
/**
 * DER in base64, or PEM. Default: the certificate of the connection.
 */
certificate?: string
/**
 * Creates a token for a client instead of adding a certificate.
 */
token?: boolean
/**
 * A token. LXD clients before 5.21 send it in this field.
 */
password?: string
trust_token?: string
restricted?: boolean
projects?: (null | Projects)
/**
 * An admin may do everything; an operator may make, restore and delete backups; a viewer may only see them.
 */
role?: ("admin" | "operator" | "viewer")
/**
 * When the token expires. Default: after gateway.tokenExpiryHours.
 */
expires_at?: string
}
/**
 * The body of POST /1.0/instances/{name}/backups, with LXD's fields. As in LXD, unknown fields are ignored.
 */
export interface CreateBackupBody {
name?: (("" | string) & string)
instance_only?: boolean
/**
 * LXD's old name for instance_only.
 */
container_only?: boolean
optimized_storage?: boolean
compression_algorithm?: ("" | "gzip" | "zstd" | "none")
object_lock?: ObjectLock
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
/**
 * Accepted, because LXD's clients send it, but ignored: lxstow keeps backups until they are deleted.
 */
expires_at?: (string | null)
}
/**
 * Locks archive and manifest in the store for this many days from the beginning of the upload. lxstow cannot delete a locked backup; with mode compliance, nobody can. The bucket must have S3 Object Lock.
 */
export interface ObjectLock {
mode: ("governance" | "compliance")
days: number
}
/**
 * A run to start: which instances to back up, and how. Unknown fields are refused.
 */
export interface CreateRunBody {
/**
 * The run's id. If the request is sent again with the same id, no second run is started.
 */
id?: string
selector: RunSelector
compression_algorithm?: ("" | "gzip" | "zstd" | "none")
optimized_storage?: boolean
instance_only?: boolean
object_lock?: ObjectLock
tags?: Tags
keep?: KeepRule
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
ping?: string
}
/**
 * Chooses the instances that meet all conditions given here. A run needs at least one of `all`, `instances` and `match`. Instances with user.lxstow.exclude=true are never chosen.
 */
export interface RunSelector {
/**
 * All instances of the given projects and hosts.
 */
all?: boolean
instances?: Patterns
exclude?: Patterns1
projects?: Projects1
/**
 * Only instances of these hosts. Default: all hosts of the configuration.
 * 
 * @maxItems 1000
 * 
 * Items: The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
remotes?: string[]
/**
 * Also choose the instances of these projects and hosts that name this schedule in user.lxstow.schedule.
 */
schedule?: string
/**
 * Conditions that must all be met: `key=value`, `key!=value` or `key`. A key is name, status, type, architecture, location, or a key of the instance's configuration (`user.backup=daily`).
 * 
 * @maxItems 20
 */
match?: string[]
}
/**
 * After each successful backup of an instance, lxstow deletes the backups of this instance that this rule does not keep.
 */
export interface KeepRule {
/**
 * Keep the last n backups. In this and the next options, -1 means any number.
 */
keep_last?: number
/**
 * Keep the last backup of each of the last n hours that have backups.
 */
keep_hourly?: number
/**
 * Keep the last backup of each of the last n days that have backups.
 */
keep_daily?: number
/**
 * Keep the last backup of each of the last n weeks that have backups. Weeks begin on Monday.
 */
keep_weekly?: number
/**
 * Keep the last backup of each of the last n months that have backups.
 */
keep_monthly?: number
/**
 * Keep the last backup of each of the last n years that have backups.
 */
keep_yearly?: number
/**
 * Keep backups made within this time before the newest one, in years, months, days and hours: 1y6m, 14d, 7d12h.
 */
keep_within?: string
/**
 * Keep backups with one of these tags: a key, or key=value.
 * 
 * @maxItems 100
 */
keep_tags?: string[]
/**
 * Keep the newest n backups, whatever the other options say. Default: 1.
 */
min_good?: number
/**
 * How keys of an instance or its profiles, such as user.lxstow.keep-daily, change this rule. lengthen (the default): for each option, the value that keeps more is used. replace: the instance's options replace those of the rule, so anyone who may edit the instance can cause the deletion of its backups. ignore: the keys have no effect.
 */
instance_keys?: ("lengthen" | "replace" | "ignore")
/**
 * IANA name of the time zone of the hours, days, weeks, months and years: Europe/Berlin. Default: UTC.
 */
zone?: string
}
/**
 * Which backups of a project to keep. The rule is applied to each instance separately.
 */
export interface PruneBody {
keep: KeepRule1
/**
 * Only backups of these instances. Default: all instances of the project that have backups, including instances that no longer exist.
 * 
 * @minItems 1
 * @maxItems 10000
 * 
 * Items: An LXD instance, by LXD's rules: letters, digits and hyphens, with no hyphen at either end, and not only digits.
 */
instances?: string[]
/**
 * Delete nothing; return what would happen to each backup.
 */
dry_run?: boolean
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
}
/**
 * Which backups of an instance are kept. A backup is kept if at least one of these options keeps it; otherwise it may be deleted. The names are restic's, except for min_good and zone.
 */
export interface KeepRule1 {
/**
 * Keep the last n backups. In this and the next options, -1 means any number.
 */
keep_last?: number
/**
 * Keep the last backup of each of the last n hours that have backups.
 */
keep_hourly?: number
/**
 * Keep the last backup of each of the last n days that have backups.
 */
keep_daily?: number
/**
 * Keep the last backup of each of the last n weeks that have backups. Weeks begin on Monday.
 */
keep_weekly?: number
/**
 * Keep the last backup of each of the last n months that have backups.
 */
keep_monthly?: number
/**
 * Keep the last backup of each of the last n years that have backups.
 */
keep_yearly?: number
/**
 * Keep backups made within this time before the newest one, in years, months, days and hours: 1y6m, 14d, 7d12h.
 */
keep_within?: string
/**
 * Keep backups with one of these tags: a key, or key=value.
 * 
 * @maxItems 100
 */
keep_tags?: string[]
/**
 * Keep the newest n backups, whatever the other options say. Default: 1.
 */
min_good?: number
/**
 * How keys of an instance or its profiles, such as user.lxstow.keep-daily, change this rule. lengthen (the default): for each option, the value that keeps more is used. replace: the instance's options replace those of the rule, so anyone who may edit the instance can cause the deletion of its backups. ignore: the keys have no effect.
 */
instance_keys?: ("lengthen" | "replace" | "ignore")
/**
 * IANA name of the time zone of the hours, days, weeks, months and years: Europe/Berlin. Default: UTC.
 */
zone?: string
}
/**
 * Where and how to restore. By default, name, project and target are those of the backup.
 */
export interface RestoreBackupBody {
/**
 * An LXD instance, by LXD's rules: letters, digits and hyphens, with no hyphen at either end, and not only digits.
 */
name?: string
/**
 * An LXD storage pool: no slash and no white space.
 */
pool?: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project?: string
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
target?: string
/**
 * Replace an existing instance of this name. If anything fails, the existing instance stays as it was.
 */
replace?: boolean
start?: boolean
/**
 * Keep the archive's UUID, MAC addresses and cloud-init identity, even if another instance on the host has them. Otherwise, a restore under another name gets new ones.
 */
keep_identity?: boolean
/**
 * False: restore without network devices, to inspect the data.
 */
network?: boolean
/**
 * Try to restore the backup even if lxstow expects the host to refuse it.
 */
anyway?: boolean
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
}
/**
 * A new run of the backups that failed in another run. Unknown fields are refused.
 */
export interface RetryRunBody {
/**
 * The new run's id. If the request is sent again with the same id, no second run is started.
 */
id?: string
}
/**
 * Why a schedule is paused, and until when.
 */
export interface SchedulePauseBody {
reason?: string
until?: string
}
/**
 * Which instances are backed up, when, and how. lxstow stores the schedule as it was written. Unknown fields are refused.
 */
export interface ScheduleBody {
description?: string
/**
 * Minute, hour, day, month and weekday, as in cron; or @hourly, @daily, @weekly, @monthly, @yearly.
 */
cron: string
/**
 * IANA name of the rule's time zone: Europe/Berlin. Default: UTC.
 */
zone?: string
/**
 * The backup of each instance is delayed by up to this much, such as 30m. The delay of an instance is the same each time.
 */
jitter?: string
/**
 * The window in which backups may begin, in the same time zone: 01:00-05:00. If the backup of an instance has not begun when the window ends, the instance is skipped, and is first in the next run.
 */
window?: string
/**
 * What happens after times at which no gateway was running. once (the default): one run makes up for them. never: they are recorded as missed.
 */
catch_up?: ("once" | "never")
selector?: RunSelector1
compression_algorithm?: ("" | "gzip" | "zstd" | "none")
optimized_storage?: boolean
instance_only?: boolean
object_lock?: ObjectLock
tags?: Tags
keep?: KeepRule2
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
ping?: string
}
/**
 * Chooses the instances that meet all conditions given here. A run needs at least one of `all`, `instances` and `match`. Instances with user.lxstow.exclude=true are never chosen.
 */
export interface RunSelector1 {
/**
 * All instances of the given projects and hosts.
 */
all?: boolean
instances?: Patterns
exclude?: Patterns1
projects?: Projects1
/**
 * Only instances of these hosts. Default: all hosts of the configuration.
 * 
 * @maxItems 1000
 * 
 * Items: The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
remotes?: string[]
/**
 * Also choose the instances of these projects and hosts that name this schedule in user.lxstow.schedule.
 */
schedule?: string
/**
 * Conditions that must all be met: `key=value`, `key!=value` or `key`. A key is name, status, type, architecture, location, or a key of the instance's configuration (`user.backup=daily`).
 * 
 * @maxItems 20
 */
match?: string[]
}
/**
 * Which backups of an instance are kept. A backup is kept if at least one of these options keeps it; otherwise it may be deleted. The names are restic's, except for min_good and zone.
 */
export interface KeepRule2 {
/**
 * Keep the last n backups. In this and the next options, -1 means any number.
 */
keep_last?: number
/**
 * Keep the last backup of each of the last n hours that have backups.
 */
keep_hourly?: number
/**
 * Keep the last backup of each of the last n days that have backups.
 */
keep_daily?: number
/**
 * Keep the last backup of each of the last n weeks that have backups. Weeks begin on Monday.
 */
keep_weekly?: number
/**
 * Keep the last backup of each of the last n months that have backups.
 */
keep_monthly?: number
/**
 * Keep the last backup of each of the last n years that have backups.
 */
keep_yearly?: number
/**
 * Keep backups made within this time before the newest one, in years, months, days and hours: 1y6m, 14d, 7d12h.
 */
keep_within?: string
/**
 * Keep backups with one of these tags: a key, or key=value.
 * 
 * @maxItems 100
 */
keep_tags?: string[]
/**
 * Keep the newest n backups, whatever the other options say. Default: 1.
 */
min_good?: number
/**
 * How keys of an instance or its profiles, such as user.lxstow.keep-daily, change this rule. lengthen (the default): for each option, the value that keeps more is used. replace: the instance's options replace those of the rule, so anyone who may edit the instance can cause the deletion of its backups. ignore: the keys have no effect.
 */
instance_keys?: ("lengthen" | "replace" | "ignore")
/**
 * IANA name of the time zone of the hours, days, weeks, months and years: Europe/Berlin. Default: UTC.
 */
zone?: string
}
/**
 * A schedule to create.
 */
export interface SchedulesPostBody {
/**
 * a schedule's name: up to 63 lower-case letters, digits and hyphens
 */
name: string
definition: ScheduleBody
}
/**
 * What can be changed about a backup. With PUT, tags and notes that are left out become empty. With PATCH, they stay, and a tag whose value is null is removed. The other fields of GET's answer are accepted, but have no effect.
 */
export interface UpdateBackupBody {
tags?: {
[k: string]: string | null
}
/**
 * A note about the backup, for people.
 */
notes?: string
/**
 * A pinned backup cannot be deleted. If this field is left out, the pin stays as it is, even with PUT.
 */
pinned?: boolean
/**
 * Puts a legal hold on the backup in the store, and pins the backup. The hold ends when the backup is unpinned. `false` also ends a hold that lxstow has not set, and keeps the pin.
 */
held?: boolean
name?: unknown
locked_until?: unknown
created?: unknown
size?: unknown
optimized?: unknown
compressed?: unknown
excluded_volumes?: unknown
created_at?: unknown
expires_at?: unknown
optimized_storage?: unknown
instance_only?: unknown
container_only?: unknown
instance?: unknown
project?: unknown
location?: unknown
raw_size?: unknown
compression_algorithm?: unknown
type?: unknown
architecture?: unknown
pool?: unknown
driver?: unknown
profiles?: unknown
snapshots?: unknown
server_version?: unknown
writer?: unknown
}
/**
 * What is known about one instance, kept in the bucket lxstow_instances under <remote>.<project>.<instance>. Each field has one writer. `lxstow rebuild` can make the whole record again from the bucket in S3 and from LXD.
 */
export interface InstanceRecord {
seen?: SeenInstance
good?: GoodBackup
/**
 * When a backup of the instance was last deleted. If a report about a backup made before this time arrives later, lxstow checks whether that backup exists, because it may be the deleted one.
 */
removed?: string
last?: LastBackupJob
}
/**
 * What the inventory found in LXD; written only when it changes. Absent if no inventory has found the instance yet.
 */
export interface SeenInstance {
/**
 * When the inventory found this.
 */
at: string
/**
 * user.lxstow.exclude is true, on the instance or on a profile.
 */
excluded: boolean
/**
 * The schedules that user.lxstow.schedule names, on the instance or on a profile.
 */
schedules?: string[]
/**
 * volatile.uuid, by which a renamed instance is recognised.
 */
uuid?: string
keep?: InstanceKeep
was?: NamedInstance
/**
 * Since when LXD has had no instance of this name.
 */
gone?: string
renamed?: NamedInstance
}
/**
 * The user.lxstow.keep-* keys of the instance or its profiles, as they were written. For an instance that no longer exists: the last known ones.
 */
export interface InstanceKeep {
"keep-last"?: string
"keep-hourly"?: string
"keep-daily"?: string
"keep-weekly"?: string
"keep-monthly"?: string
"keep-yearly"?: string
"keep-within"?: string
"keep-tag"?: string
}
/**
 * Another name of a renamed or moved instance: `was` contains the old name, `renamed` the new one.
 */
export interface NamedInstance {
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * An LXD instance, by LXD's rules: letters, digits and hyphens, with no hyphen at either end, and not only digits.
 */
instance: string
}
/**
 * The newest backup in the store; written by the process that writes or deletes a manifest.
 */
export interface GoodBackup {
/**
 * The name of a backup. It is the last part of an object key, so it may contain only letters, digits, dots, hyphens and underscores.
 */
backup: string
/**
 * When the backup was made, according to its manifest.
 */
at: string
/**
 * Bytes of the archive.
 */
size: number
}
/**
 * How the instance's last backup job ended that was not cancelled; written by the process that ended it. Before 2026-11-29, cancelled jobs were recorded, too.
 */
export interface LastBackupJob {
operation: string
/**
 * The run that the job belonged to.
 */
run?: string
at: string
outcome: ("success" | "failure" | "cancelled")
/**
 * Why the job did not succeed.
 */
reason?: string
}
/**
 * Back up the instance that the subject names: lxstow.jobs.<remote>.backup.<project>.<instance>. An empty message means {}.
 */
export interface BackupJob {
/**
 * The name of a backup. It is the last part of an object key, so it may contain only letters, digits, dots, hyphens and underscores.
 */
backup?: string
/**
 * How the archive is compressed.
 */
compression?: ("gzip" | "zstd" | "none")
/**
 * Use the storage driver's own format, which can be restored only to a pool with the same driver.
 */
optimized?: boolean
/**
 * Leave out the instance's snapshots.
 */
instance_only?: boolean
object_lock?: ObjectLock
tags?: Tags
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
/**
 * The run that the backup is part of.
 */
run?: string
requestor?: Requestor
}
/**
 * The client that made the request, as in LXD's lifecycle events.
 */
export interface Requestor {
/**
 * The client certificate's SHA-256 fingerprint, in hex.
 */
username?: string
protocol?: string
address?: string
}
/**
 * Delete a backup of the instance that the subject names: lxstow.jobs.<remote>.delete.<project>.<instance>.
 */
export interface DeleteJob {
/**
 * The name of a backup. It is the last part of an object key, so it may contain only letters, digits, dots, hyphens and underscores.
 */
backup: string
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
requestor?: Requestor
}
/**
 * Delete the backups of an instance that the rule does not keep. The subject names the instance: lxstow.jobs.<remote>.prune.<project>.<instance>.
 */
export interface PruneJob {
keep: KeepRule1
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
/**
 * The run that made the backup before this prune.
 */
run?: string
requestor?: Requestor
}
/**
 * Restore a backup as the instance that the subject names: lxstow.jobs.<remote>.restore.<project>.<instance>. The instance must not exist yet, unless `replace` is true.
 */
export interface RestoreJob {
/**
 * The name of a backup. It is the last part of an object key, so it may contain only letters, digits, dots, hyphens and underscores.
 */
backup: string
/**
 * The instance that the backup belongs to. Fields that are left out have the values in the subject.
 */
source?: {
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
remote?: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project?: string
/**
 * An LXD instance, by LXD's rules: letters, digits and hyphens, with no hyphen at either end, and not only digits.
 */
instance?: string
}
/**
 * An LXD storage pool: no slash and no white space.
 */
pool?: string
/**
 * Replace an existing instance of this name. The existing instance is deleted last, after the restored one has taken its place.
 */
replace?: boolean
/**
 * Start the instance after it is restored.
 */
start?: boolean
/**
 * Keep the archive's UUID, MAC addresses and cloud-init identity, even if another instance on the host has them.
 */
keep_identity?: boolean
/**
 * False: restore without network devices, to inspect the data.
 */
network?: boolean
/**
 * Try to restore the backup even if lxstow expects the host to refuse it.
 */
anyway?: boolean
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
requestor?: Requestor
}
/**
 * An archive with a manifest is a backup. The manifest contains what a restore on an empty host needs in addition to the archive. Unknown fields are kept.
 */
export interface Manifest {
version: 1
/**
 * The program and its version.
 */
writer: string
operation: string
backup: ManifestBackup
archive: ManifestArchive
instance: ManifestInstance
lxd: ManifestLxd
source?: ManifestSource
}
export interface ManifestBackup {
/**
 * The name of a backup. It is the last part of an object key, so it may contain only letters, digits, dots, hyphens and underscores.
 */
name: string
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
remote: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * An LXD instance, by LXD's rules: letters, digits and hyphens, with no hyphen at either end, and not only digits.
 */
instance: string
created: string
tags: Tags
/**
 * A note about the backup, for people.
 */
notes?: string
/**
 * The backup cannot be deleted until it is unpinned.
 */
pinned?: boolean
/**
 * The backup is pinned, and the store has a legal hold on archive and manifest.
 */
held?: boolean
lock?: BackupLock
}
/**
 * Archive and manifest are locked in the store.
 */
export interface BackupLock {
mode: ("governance" | "compliance")
until: string
}
export interface ManifestArchive {
key: string
etag: string
/**
 * Bytes stored.
 */
size: number
/**
 * Bytes of the tar archive that LXD exported.
 */
rawSize: number
/**
 * How the archive is compressed.
 */
compression: ("gzip" | "zstd" | "none")
optimized: boolean
instanceOnly: boolean
/**
 * Bytes of the uncompressed archive in each compressed block.
 */
blockSize: number
/**
 * @minItems 1
 * @maxItems 10000
 */
parts: Part[]
}
export interface Part {
number: number
/**
 * Offset in the tar of the first byte of this part.
 */
rawStart: number
/**
 * Offset in the tar of the byte after the last byte of this part.
 */
rawEnd: number
/**
 * Bytes stored.
 */
size: number
etag: string
sha256: string
/**
 * CRC-32 as S3 writes it: the base64 of the big-endian value.
 */
crc32: string
}
/**
 * The instance as LXD described it when it was backed up.
 */
export interface ManifestInstance {
config: {
[k: string]: string
}
devices: Devices
profiles: Profile[]
pool: string
driver: string
architecture: string
type: string
snapshots: string[]
}
export interface Devices {
[k: string]: {
[k: string]: string
}
}
export interface Profile {
name: string
description?: string
config: {
[k: string]: string
}
devices: Devices
}
export interface ManifestLxd {
version: string
extensions?: string[]
}
/**
 * The object from which an adopted backup was copied.
 */
export interface ManifestSource {
endpoint: string
bucket: string
key: string
etag: string
size: number
}
/**
 * Definitions that the other schemas share.
 */
export interface Names {
[k: string]: unknown
}
/**
 * Bodies of requests and answers over NATS. An empty request means {}. The subjects are in services/gateway/natsApi/endpoints.ts.
 */
export interface NatsApi {
listRequest?: ListRequest
backupRequest?: BackupRequest
operationsRequest?: OperationsRequest
operationRequest?: OperationRequest
waitRequest?: WaitRequest
statusRequest?: StatusRequest
statusPage?: StatusPage
backupPage?: BackupPage
backup?: ShownBackup
operationPage?: OperationPage
operation?: ShownOperation
pruneVerdict?: PruneVerdict
schedule?: ShownSchedule
schedulePage?: SchedulePage
scheduleRequest?: ScheduleRequest
schedulePauseRequest?: SchedulePauseRequest
scheduleRunRequest?: ScheduleRunRequest
scheduleNextRequest?: ScheduleNextRequest
scheduledTimes?: ScheduledTimes
scheduledAt?: ScheduledAt
error?: NatsApiError
}
export interface ListRequest {
/**
 * Largest number of items. The answer has fewer if they would not fit into a message.
 */
limit?: number
/**
 * `next` of the previous page.
 */
after?: string
}
export interface BackupRequest {
/**
 * The name of a backup. It is the last part of an object key, so it may contain only letters, digits, dots, hyphens and underscores.
 */
backup: string
}
export interface OperationsRequest {
/**
 * Only operations with this status.
 */
status?: ("Pending" | "Running" | "Cancelling" | "Success" | "Failure" | "Cancelled")
/**
 * Largest number of items. The answer has fewer if they would not fit into a message.
 */
limit?: number
/**
 * `next` of the previous page.
 */
after?: string
}
export interface OperationRequest {
id: string
}
export interface WaitRequest {
id: string
/**
 * How many seconds to wait. If the operation has not ended by then, the answer shows its current state.
 */
timeout?: number
}
export interface StatusRequest {
/**
 * Only instances in this state.
 */
state?: ("ok" | "overdue" | "never" | "failing" | "excluded" | "gone")
/**
 * The age from which an instance's last backup is too old: 90m, 26h, 8d. Default: set by the instance's schedules, or by gateway.backupMaxAgeHours if it has none.
 */
older_than?: string
/**
 * Largest number of items. The answer has fewer if they would not fit into a message.
 */
limit?: number
/**
 * `next` of the previous page.
 */
after?: string
}
export interface StatusPage {
instances: Instances
/**
 * Present if there are more items: send the request again with this value as `after`.
 */
next?: string
}
export interface InstanceStatus {
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
host: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * An LXD instance, by LXD's rules: letters, digits and hyphens, with no hyphen at either end, and not only digits.
 */
instance: string
/**
 * docs/status.md explains each state, and what to do about it.
 */
state: ("ok" | "overdue" | "never" | "failing" | "excluded" | "gone")
/**
 * When the instance's newest backup in the store was made; null if it has none.
 */
last_success: (string | null)
/**
 * The schedules that cover the instance and that the client may see. Absent if there are none.
 * 
 * Items: a schedule's name: up to 63 lower-case letters, digits and hyphens
 */
schedules?: string[]
/**
 * Why the instance is in this state. Empty if it is ok, unless one of its schedules is paused.
 */
reason: string
}
export interface BackupPage {
backups: Backups
/**
 * Present if there are more items: send the request again with this value as `after`.
 */
next?: string
}
/**
 * A backup in a list.
 */
export interface ListedBackup {
/**
 * The name of a backup. It is the last part of an object key, so it may contain only letters, digits, dots, hyphens and underscores.
 */
name: string
/**
 * When the backup was made.
 */
created: string
/**
 * The same, by LXD's name.
 */
created_at: string
/**
 * Always LXD's value for “never”: backups do not expire by themselves.
 */
expires_at: "0001-01-01T00:00:00Z"
/**
 * Size of the archive in bytes; while the backup is being made, the bytes stored so far.
 */
size: number
optimized: boolean
/**
 * The same, by LXD's name.
 */
optimized_storage: boolean
compressed: boolean
/**
 * True if the backup does not contain the instance's snapshots.
 */
instance_only: boolean
/**
 * The same as `instance_only`, under LXD's old name.
 */
container_only: boolean
tags: Tags
/**
 * The backup cannot be deleted until it is unpinned.
 */
pinned: boolean
/**
 * The backup is pinned, and has a legal hold in the store.
 */
held: boolean
/**
 * When the store's lock ends; null if the backup was never locked.
 */
locked_until: (string | null)
/**
 * An LXD instance, by LXD's rules: letters, digits and hyphens, with no hyphen at either end, and not only digits.
 */
instance: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
location: string
}
export interface OperationPage {
/**
 * Newest first.
 */
operations: ShownOperation[]
/**
 * Present if there are more items: send the request again with this value as `after`.
 */
next?: string
}
/**
 * An operation with LXD's fields.
 */
export interface ShownOperation {
id: string
class: "task"
description?: string
created_at: string
updated_at: string
status: ("Pending" | "Running" | "Cancelling" | "Success" | "Failure" | "Cancelled")
/**
 * 200 or more: the operation has ended, at `updated_at`.
 */
status_code: (105 | 103 | 104 | 200 | 400 | 401)
resources?: Resources
/**
 * Progress as in operation.json, with the stage while the operation runs; `code` (docs/troubleshooting.md) if it failed; `run`, the id of the run that a backup is part of; for a restore, `source`: the backup that it reads, as `location`, `project`, `instance` and `name`.
 */
metadata?: {

}
may_cancel: boolean
err: string
/**
 * The host.
 */
location: string
}
export interface Resources {
[k: string]: string[]
}
/**
 * What a rule decides about a backup.
 */
export interface PruneVerdict {
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
location: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * An LXD instance, by LXD's rules: letters, digits and hyphens, with no hyphen at either end, and not only digits.
 */
instance: string
/**
 * The name of a backup. It is the last part of an object key, so it may contain only letters, digits, dots, hyphens and underscores.
 */
backup: string
created: string
/**
 * Bytes of the archive.
 */
size: number
action: ("keep" | "delete")
/**
 * Why the backup is kept: `daily 2026-11-28`, `pinned`. Empty if nothing keeps it.
 */
reasons: string[]
}
/**
 * A schedule, and when it is due next.
 */
export interface ShownSchedule {
/**
 * a schedule's name: up to 63 lower-case letters, digits and hyphens
 */
name: string
definition: ScheduleBody
created_at: string
updated_at: string
requestor?: Requestor
/**
 * The time from which lxstow computes when the schedule is next due: when it was last due, created, changed or resumed.
 */
since: string
last?: ScheduleLast
paused?: SchedulePause
/**
 * When the schedule is next due, with the offset of its zone. Absent while the schedule is paused.
 */
next?: string
/**
 * Why the schedule's owner no longer has the right to this schedule. If the owner was restricted to projects, the schedule is paused. Or why its runs do not apply its rule.
 */
owner_trouble?: string
/**
 * The URLs in the definition of which this client sees only scheme, host and port.
 */
masked?: ("notifyEndpoint" | "ping")[]
}
/**
 * The last time at which the schedule was due.
 */
export interface ScheduleLast {
/**
 * The local time at which the schedule was due.
 */
slot: string
at: string
run: string
}
/**
 * A paused schedule is never due.
 */
export interface SchedulePause {
since: string
/**
 * Fingerprint of the client that paused the schedule.
 */
by?: string
reason?: string
/**
 * When the schedule resumes by itself.
 */
until?: string
}
export interface SchedulePage {
schedules: Schedules
/**
 * Present if there are more items: send the request again with this value as `after`.
 */
next?: string
}
export interface ScheduleRequest {
/**
 * a schedule's name: up to 63 lower-case letters, digits and hyphens
 */
name: string
}
export interface SchedulePauseRequest {
/**
 * a schedule's name: up to 63 lower-case letters, digits and hyphens
 */
name: string
reason?: string
until?: string
}
export interface ScheduleRunRequest {
/**
 * a schedule's name: up to 63 lower-case letters, digits and hyphens
 */
name: string
/**
 * The run's id. If the request is sent again with the same id, no second run is started.
 */
id?: string
}
export interface ScheduleNextRequest {
/**
 * a schedule's name: up to 63 lower-case letters, digits and hyphens
 */
name: string
/**
 * True: the answer contains the time at which the next backup of each instance begins.
 */
instances?: boolean
/**
 * Number of times to return.
 */
count?: number
}
export interface ScheduledTimes {
times: Times
/**
 * Hosts whose instances are not in the list, and why.
 */
silent?: {
[k: string]: string
}
}
/**
 * A time at which a schedule is due; with host, project and instance, a time at which the backup of that instance begins.
 */
export interface ScheduledAt {
/**
 * a schedule's name: up to 63 lower-case letters, digits and hyphens
 */
schedule: string
/**
 * With the offset of the schedule's zone.
 */
at: string
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
host?: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project?: string
/**
 * An LXD instance, by LXD's rules: letters, digits and hyphens, with no hyphen at either end, and not only digits.
 */
instance?: string
keep?: KeepRule3
keys?: InstanceKeep1
}
/**
 * Which backups of an instance are kept. A backup is kept if at least one of these options keeps it; otherwise it may be deleted. The names are restic's, except for min_good and zone.
 */
export interface KeepRule3 {
/**
 * Keep the last n backups. In this and the next options, -1 means any number.
 */
keep_last?: number
/**
 * Keep the last backup of each of the last n hours that have backups.
 */
keep_hourly?: number
/**
 * Keep the last backup of each of the last n days that have backups.
 */
keep_daily?: number
/**
 * Keep the last backup of each of the last n weeks that have backups. Weeks begin on Monday.
 */
keep_weekly?: number
/**
 * Keep the last backup of each of the last n months that have backups.
 */
keep_monthly?: number
/**
 * Keep the last backup of each of the last n years that have backups.
 */
keep_yearly?: number
/**
 * Keep backups made within this time before the newest one, in years, months, days and hours: 1y6m, 14d, 7d12h.
 */
keep_within?: string
/**
 * Keep backups with one of these tags: a key, or key=value.
 * 
 * @maxItems 100
 */
keep_tags?: string[]
/**
 * Keep the newest n backups, whatever the other options say. Default: 1.
 */
min_good?: number
/**
 * How keys of an instance or its profiles, such as user.lxstow.keep-daily, change this rule. lengthen (the default): for each option, the value that keeps more is used. replace: the instance's options replace those of the rule, so anyone who may edit the instance can cause the deletion of its backups. ignore: the keys have no effect.
 */
instance_keys?: ("lengthen" | "replace" | "ignore")
/**
 * IANA name of the time zone of the hours, days, weeks, months and years: Europe/Berlin. Default: UTC.
 */
zone?: string
}
/**
 * The user.lxstow.keep-* keys of the instance or its profiles, as they were written. For an instance that no longer exists: the last known ones.
 */
export interface InstanceKeep1 {
"keep-last"?: string
"keep-hourly"?: string
"keep-daily"?: string
"keep-weekly"?: string
"keep-monthly"?: string
"keep-yearly"?: string
"keep-within"?: string
"keep-tag"?: string
}
export interface NatsApiError {
/**
 * What happened, and what to do.
 */
error: string
/**
 * One of the codes in services/contract/errors.ts.
 */
code: string
/**
 * The HTTP status that the REST API would answer with.
 */
status: number
}
/**
 * How an operation ended, as lxstow posts it to webhooks. Fields in camelCase are those of lxmin's notifications; the others are as in operations. Later versions may add fields.
 */
export interface Notice {
opType: ("backup" | "restore" | "delete" | "prune" | "upload")
state: ("success" | "failed" | "cancelled")
/**
 * The backup's name; empty if the operation ended before the backup had one.
 */
name: string
/**
 * The instance that was backed up or restored.
 */
instance: string
/**
 * When the operation was requested.
 */
startedAt: string
/**
 * When the operation succeeded.
 */
completedAt?: string
/**
 * When the operation failed.
 */
failedAt?: string
/**
 * The path that the request has in the REST API, even if it came over NATS.
 */
rawURL: string
/**
 * Why the operation failed.
 */
error?: string
operation: string
kind: ("backup" | "restore" | "delete" | "prune" | "upload")
status: ("Success" | "Failure" | "Cancelled")
status_code: (200 | 400 | 401)
/**
 * One of the codes in docs/troubleshooting.md; present if there is an error.
 */
code?: string
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
location: string
project: string
/**
 * The name of a backup. It is the last part of an object key, so it may contain only letters, digits, dots, hyphens and underscores.
 */
backup?: string
/**
 * For a restore: the instance that the backup belongs to, if the job names it. Fields that are left out have the notice's values.
 */
source?: {
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
location?: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project?: string
/**
 * An LXD instance, by LXD's rules: letters, digits and hyphens, with no hyphen at either end, and not only digits.
 */
instance?: string
}
tags?: Tags
/**
 * Bytes of the archive in the store.
 */
size?: number
/**
 * Bytes of the archive, uncompressed.
 */
raw_size?: number
ended_at: string
/**
 * Time from the request to the end, including waiting and retries.
 */
duration_seconds: number
/**
 * How many attempts the job had.
 */
attempts: number
/**
 * The W3C trace id of the request.
 */
trace?: string
warnings?: string[]
}
/**
 * The record of one job, kept in the bucket lxstow_operations under <remote>.<id>. The first twelve fields are LXD's own. The API shows only these twelve (services/gateway/views/operationView.ts), and adds `code`, `run` and `source` to the metadata. The other fields are internal.
 */
export interface Operation {
id: string
class: "task"
description: string
created_at: string
updated_at: string
status: ("Pending" | "Running" | "Cancelling" | "Success" | "Failure" | "Cancelled")
status_code: (105 | 103 | 104 | 200 | 400 | 401)
resources: Resources
metadata: OperationMetadata
may_cancel: boolean
err: string
/**
 * The host.
 */
location: string
kind: ("backup" | "restore" | "delete" | "prune" | "upload")
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
remote: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * An LXD instance, by LXD's rules: letters, digits and hyphens, with no hyphen at either end, and not only digits.
 */
instance: string
/**
 * The name of a backup. It is the last part of an object key, so it may contain only letters, digits, dots, hyphens and underscores.
 */
backup?: string
requestor?: Requestor
/**
 * The W3C trace id of the request that created the job; log lines contain it, too.
 */
trace?: string
/**
 * The job's message, without fields that do not match its schema.
 */
request?: {

}
/**
 * One of the codes in services/contract/errors.ts; present if err is not empty.
 */
error_code?: string
/**
 * How many attempts at the job have begun.
 */
attempt: number
/**
 * Since when a dependency that the job needs has been away. Attempts that the outage ended do not count as attempts.
 */
waiting_since?: string
/**
 * How many attempts ended because LXD stopped or was restarted. They do not count as attempts, but the wait before the next attempt doubles each time.
 */
cut_by_lxd?: number
/**
 * The worker that does the job, or the gateway that receives the upload.
 */
owner?: string
checkpoint?: Checkpoint
}
/**
 * Progress for clients to show.
 */
export interface OperationMetadata {
stage?: ("generating" | "uploading" | "restoring" | "unpacking" | "swapping" | "starting" | "deleting")
/**
 * Bytes of the uncompressed archive that have been processed.
 */
bytes_done?: number
/**
 * Bytes of the uncompressed archive; absent until it is known.
 */
bytes_total?: number
/**
 * Bytes in the object store.
 */
bytes_stored?: number
/**
 * Average of the current stage.
 */
bytes_per_second?: number
/**
 * Free space on the disk to which LXD writes its copy, as last measured while LXD was writing. Absent if the worker cannot see that disk.
 */
lxd_free_bytes?: number
/**
 * The progress in LXD's own words.
 */
create_backup_progress?: string
/**
 * How many backups a prune has kept.
 */
backups_kept?: number
/**
 * How many backups a prune has deleted so far.
 */
backups_deleted?: number
/**
 * Total size of the archives that a deletion or prune has deleted.
 */
bytes_freed?: number
/**
 * Total size of deleted archives that the bucket still keeps as old versions. Their space is freed when a lifecycle rule or a person removes these versions.
 */
bytes_in_old_versions?: number
/**
 * What the job waits for, because other jobs use it or because it is away: `instance c1`, `storage pool default`, `remote local`, `S3, away since …`.
 */
waiting_for?: string
/**
 * Why the last attempt failed, if another attempt will follow.
 */
retry_reason?: string
warnings?: string[]
}
/**
 * What an attempt has made in S3 and LXD, so that the next attempt can continue from it or remove it.
 */
export interface Checkpoint {
lxdBackup?: string
/**
 * Free space on LXD's disk, in bytes, that was too little for LXD's copy.
 */
tooLittleBytes?: number
key?: string
uploadId?: string
/**
 * The manifest may be stored: it was sent to the store, which did not confirm it, or an attempt has not recorded its end. So a cancel or a failure cannot end while the store is away.
 */
manifestSent?: boolean
removing?: RemovedBackup
/**
 * Names of the profiles that the restore has created.
 */
profiles?: string[]
/**
 * An import has begun, under a temporary name of this operation.
 */
importing?: boolean
/**
 * Process id of LXD when the last import began. If that process has ended since, LXD may have started the imported instance.
 */
lxdPid?: number
/**
 * Path of LXD's operation of the last import.
 */
lxdImport?: string
/**
 * LXD has reported that the last import succeeded. Otherwise, the imported instance may be incomplete.
 */
importedWhole?: boolean
/**
 * Number in the temporary name of the import. Absent for the first name; used if volumes that LXD left behind block the names before it.
 */
importName?: number
kept?: KeptConfig
/**
 * The imported instance is marked as lxstow's, does not start by itself, and has a new identity if it needs one.
 */
prepared?: boolean
/**
 * The instance that is being replaced, as it was before it was stopped.
 */
replaced?: {
status: string
kept: KeptConfig1
}
/**
 * Identifier of the instance that had the name when the restore began, and is to be replaced; empty if there was none.
 */
givingWay?: string
/**
 * The worker has begun to give the restored instance its own configuration back.
 */
handedOver?: boolean
/**
 * The restored instance has its name, and has run if it was to be started. From here on, no failure undoes the replacement.
 */
swapped?: boolean
/**
 * Why the replacement is being undone.
 */
failed?: string
}
/**
 * The backup that is being deleted. It is recorded because another backup may have its name when the next attempt begins.
 */
export interface RemovedBackup {
/**
 * ETag of its manifest.
 */
manifest: string
/**
 * ETag of its archive.
 */
archive?: string
/**
 * The operation that made the backup; absent if the manifest cannot be read.
 */
operation?: string
/**
 * How many backups the prune had deleted before this one. If the prune's count is higher by now, this backup is already counted, and is in the audit log.
 */
deletedBefore?: number
}
/**
 * The values in the archive of the keys that a restore changes temporarily.
 */
export interface KeptConfig {
[k: string]: string
}
/**
 * Configuration keys of an instance. An empty value means that the key was not set.
 */
export interface KeptConfig1 {
[k: string]: string
}
/**
 * The outage of a dependency that a host's jobs need, kept in the bucket lxstow_leases under <remote>.=away.s3, or <remote>.=away.lxd.<worker> for a worker's own LXD. The worker that checks whether the dependency is back writes the record. The record ends with the outage, or soon after that worker has died.
 */
export interface Outage {
dependency: ("s3" | "lxd")
since: string
/**
 * The code of the last error, one of those in services/contract/errors.ts.
 */
code: string
/**
 * The last error in words.
 */
reason: string
/**
 * How many jobs may use the dependency at a time: 0 while it is away, then gradually more.
 */
allowed: number
/**
 * True: only writes fail, so only backups wait. Absent if reads fail, too.
 */
only?: "writes"
/**
 * The worker that checks whether the dependency is back.
 */
worker: string
}
/**
 * The progress of a running operation. The worker publishes it to lxstow.progress.<remote>.<operation> about once a second, and it is not stored. The operation's record gets it with the next change, at the latest after 30 s.
 */
export interface Progress {
/**
 * The worker that does the job, or the gateway that receives the upload.
 */
owner: string
/**
 * How many attempts at the job have begun.
 */
attempt: number
at: string
metadata: ProgressMetadata
}
/**
 * These fields replace those of the record if they are newer.
 */
export interface ProgressMetadata {
/**
 * Bytes of the uncompressed archive that have been processed.
 */
bytes_done?: number
/**
 * Bytes of the uncompressed archive; absent until it is known.
 */
bytes_total?: number
/**
 * Bytes in the object store.
 */
bytes_stored?: number
/**
 * Average of the current stage.
 */
bytes_per_second?: number
/**
 * Free space on the disk to which LXD writes its copy, as last measured while LXD was writing. Absent if the worker cannot see that disk.
 */
lxd_free_bytes?: number
create_backup_progress?: string
}
/**
 * What the command line reads from the metadata of a gateway's answers. It accepts additional fields.
 */
export interface ReadAnswers {
[k: string]: unknown
}
/**
 * Runs as the API shows them, over HTTPS and NATS, and the requests about runs over NATS.
 */
export interface RunAnswers {
run?: ShownRun
runPage?: RunPage
childPage?: RunChildPage
runRequest?: RunRequest
runsRequest?: RunsRequest
childrenRequest?: RunChildrenRequest
retryRequest?: RunRetryRequest
notice?: RunNotice
}
/**
 * The part of a run that is in projects that the client may see.
 */
export interface ShownRun {
id: string
status: ("Running" | "Cancelling" | "Success" | "Failure" | "Cancelled")
/**
 * 200 or more: the run has ended.
 */
status_code: (103 | 104 | 200 | 400 | 401)
/**
 * The run's priority. The values are listed from the highest priority to the lowest.
 */
class: ("hand" | "retry" | "catch-up" | "scheduled")
schedule?: RunSchedule
/**
 * The run whose failed children this run repeats.
 */
retry_of?: string
/**
 * A note about the run. For a run that makes up for a missed time: how many earlier times were missed.
 */
note?: string
created_at: string
updated_at: string
ended_at?: string
selector: RunSelector
/**
 * compression_algorithm, optimized_storage, instance_only, object_lock, tags and keep, as they were requested. A client that may see only a part of the run does not get keep.
 */
options: {

}
counts: RunCounts
/**
 * Bytes in the object store, of the backups that succeeded.
 */
bytes: number
/**
 * Average since the run began.
 */
bytes_per_second?: number
/**
 * Estimate from the children that have ended so far. Absent until the first has ended.
 */
seconds_left?: number
away: RunAway[]
/**
 * The first failures; the list of children has all.
 */
failures: RunFailure[]
/**
 * How many instances match the selector but have user.lxstow.exclude=true.
 */
excluded: number
/**
 * The path of the run's operation.
 */
operation: string
}
/**
 * For a scheduled run: its schedule, the time at which the schedule was due, and when the children may begin.
 */
export interface RunSchedule {
name: string
/**
 * The local time at which the schedule was due.
 */
slot: string
starts_at: string
jitter_seconds?: number
/**
 * Children that have not begun by this time are skipped.
 */
window_ends?: string
}
/**
 * `total` is the sum of the others.
 */
export interface RunCounts {
total: number
success: number
failure: number
/**
 * Instances that another operation or an earlier run already backs up.
 */
skipped: number
cancelled: number
running: number
pending: number
}
export interface RunAway {
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
remote: string
since: string
reason: string
/**
 * False: the host has not listed its instances yet. Its children are planned when it answers.
 */
planned: boolean
/**
 * records: the host's children were planned from the records of its instances, because the host did not answer. They wait until it answers. Then lxstow adds missing instances, and skips instances that the host no longer has.
 */
planned_from?: "records"
}
export interface RunFailure {
/**
 * Empty if the failure concerns the whole run.
 */
remote: string
/**
 * Empty if the failure concerns no single project.
 */
project: string
/**
 * Empty if the failure concerns no single instance.
 */
instance: string
reason: string
error_code?: string
}
export interface RunPage {
/**
 * Newest first.
 */
runs: ShownRun[]
/**
 * Present if there are more items: send the request again with this value as `after`.
 */
next?: string
}
export interface RunChildPage {
/**
 * In the order in which they begin.
 */
children: ShownRunChild[]
/**
 * Present if there are more items: send the request again with this value as `after`.
 */
next?: string
}
export interface ShownRunChild {
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
remote: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * An LXD instance, by LXD's rules: letters, digits and hyphens, with no hyphen at either end, and not only digits.
 */
instance: string
state: ("success" | "failure" | "skipped" | "cancelled" | "running" | "pending")
/**
 * The path of the child's operation, which exists once the child is on the queue.
 */
operation: string
/**
 * The name of a backup. It is the last part of an object key, so it may contain only letters, digits, dots, hyphens and underscores.
 */
backup?: string
bytes?: number
reason?: string
error_code?: string
by?: string
since?: string
}
export interface RunRequest {
id: string
}
export interface RunsRequest {
/**
 * Largest number of items. The answer has fewer if they would not fit into a message.
 */
limit?: number
/**
 * `next` of the previous page.
 */
after?: string
}
export interface RunChildrenRequest {
id: string
/**
 * Only children in this state.
 */
state?: ("success" | "failure" | "skipped" | "cancelled" | "running" | "pending")
/**
 * Largest number of items. The answer has fewer if they would not fit into a message.
 */
limit?: number
/**
 * `next` of the previous page.
 */
after?: string
}
export interface RunRetryRequest {
id: string
/**
 * The new run's id.
 */
new_id?: string
}
/**
 * How a run ended, as lxstow posts it to webhooks. `run` contains the run as the API shows it.
 */
export interface RunNotice {
opType: "run"
state: ("success" | "failed" | "cancelled")
startedAt: string
completedAt?: string
failedAt?: string
rawURL: string
error?: string
operation: string
kind: "run"
status: ("Success" | "Failure" | "Cancelled")
status_code: (200 | 400 | 401)
ended_at: string
duration_seconds: number
run: ShownRun
}
export interface RunChild {
/**
 * The name of a host: a key in `remotes` of the configuration, of lower-case letters, digits and hyphens.
 */
remote: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * An LXD instance, by LXD's rules: letters, digits and hyphens, with no hyphen at either end, and not only digits.
 */
instance: string
state: ("success" | "failure" | "skipped" | "cancelled" | "running" | "pending")
/**
 * The name of a backup. It is the last part of an object key, so it may contain only letters, digits, dots, hyphens and underscores.
 */
backup?: string
/**
 * Bytes of the backup in the object store.
 */
bytes?: number
/**
 * Why the child failed, or was skipped or cancelled.
 */
reason?: string
error_code?: string
/**
 * For a skipped child: the operation or run that already backs up the instance.
 */
by?: string
/**
 * For a skipped child: when that operation was queued, or that run was created.
 */
since?: string
/**
 * The last run's window ended before this instance's backup had begun, so it now begins without jitter.
 */
first?: true
}
/**
 * A run without its children, in the bucket lxstow_runs under <id>.head. The children are under <id>.plan.<plan>.<nnn>.
 */
export interface Run {
id: string
/**
 * Which of the plans under this id is valid. It is secret, because the ids of the children's operations are derived from it.
 */
plan: string
/**
 * Number of chunks in the plan.
 */
chunks: number
status: ("Running" | "Cancelling" | "Success" | "Failure" | "Cancelled")
/**
 * The run's priority. The values are listed from the highest priority to the lowest.
 */
class: ("hand" | "retry" | "catch-up" | "scheduled")
schedule?: RunSchedule
/**
 * The run whose failed children this run repeats.
 */
retry_of?: string
/**
 * A note about the run. For a run that makes up for a missed time: how many earlier times were missed.
 */
note?: string
created_at: string
updated_at: string
ended_at?: string
request: CreateRunBody
requestor?: Requestor
trace?: string
/**
 * Counts of the children, by `<remote>/<project>`.
 */
places: {
[k: string]: RunTally
}
/**
 * Hosts that the run's children wait for.
 */
away: RunAway[]
/**
 * Names in the selector that no host has so far. Present while the run waits for hosts that had not answered when it was planned; when all have answered, each name is a failure. Absent if such a host was given up.
 */
missing?: string[]
/**
 * The first failures.
 */
failures: RunFailure[]
/**
 * How many instances match the selector but have user.lxstow.exclude=true.
 */
excluded: number
}
/**
 * Number of children in each state (states without children are left out), and bytes in the store of the children that succeeded.
 */
export interface RunTally {
success?: number
failure?: number
skipped?: number
cancelled?: number
running?: number
pending?: number
bytes?: number
}
/**
 * A schedule, in the bucket lxstow_schedules under its name.
 */
export interface Schedule {
/**
 * a schedule's name: up to 63 lower-case letters, digits and hyphens
 */
name: string
definition: ScheduleBody
/**
 * Secret part of the ids of the schedule's runs, so that no client can create a run with such an id before the schedule is due. The API does not show it.
 */
token: string
created_at: string
updated_at: string
requestor?: Requestor1
/**
 * True: the owner is restricted to projects. The schedule is paused when the owner may no longer use these projects.
 */
restricted?: true
/**
 * When the schedule was created or its times last changed. Its instances should have backups since then.
 */
begun?: string
/**
 * The time from which lxstow computes when the schedule is next due: when it was last due, created, changed or resumed.
 */
since: string
last?: ScheduleLast
paused?: SchedulePause
}
/**
 * The client that made the request, as in LXD's lifecycle events.
 */
export interface Requestor1 {
/**
 * The client certificate's SHA-256 fingerprint, in hex.
 */
username?: string
protocol?: string
address?: string
}
/**
 * A record that a certificate was revoked, or a token used or revoked. It replaces the certificate or token in the bucket lxstow_trust, because NATS may restore a key that was removed.
 */
export interface TrustEnd {
/**
 * `used`: a client became trusted with the token.
 */
state: ("revoked" | "used")
/**
 * A client's name, for people: up to 255 printable characters.
 */
name: string
at: string
by: Requestor
}
/**
 * A token that makes one client trusted, kept in the bucket lxstow_trust under token.<id>.<SHA-256 of its secret> until it is used or expires.
 */
export interface TrustToken {
id: string
/**
 * A client's name, for people: up to 255 printable characters.
 */
name: string
restricted: boolean
projects: Projects
/**
 * An admin may do everything; an operator may make, restore and delete backups; a viewer may only see them.
 */
role: ("admin" | "operator" | "viewer")
/**
 * Fingerprint of the gateway's certificate.
 */
fingerprint: string
/**
 * Addresses of the gateway, as host:port.
 */
addresses: string[]
created_at: string
expires_at: string
}
/**
 * A client that is trusted, kept in the bucket lxstow_trust under certificate.<fingerprint>.
 */
export interface TrustedCertificate {
fingerprint: string
/**
 * A client's name, for people: up to 255 printable characters.
 */
name: string
type: "client"
/**
 * PEM.
 */
certificate: string
/**
 * The client can use only its projects.
 */
restricted: boolean
projects: Projects
/**
 * An admin may do everything; an operator may make, restore and delete backups; a viewer may only see them.
 */
role: ("admin" | "operator" | "viewer")
added_at: string
}
