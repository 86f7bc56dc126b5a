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
 * Names or patterns of those that are left out.
 * 
 * @maxItems 1000
 * 
 * Items: an instance's name, or a pattern of letters, digits, hyphens, * and ?
 */
export type Patterns1 = string[]
/**
 * All that the client may use without it.
 * 
 * @maxItems 1000
 * 
 * Items: An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
export type Projects1 = string[]
/**
 * A backup; while it is being made, with its status and progress.
 */
export type ShownBackup = (ListedBackup & {
/**
 * What people want to remember of a backup.
 */
notes?: string
/**
 * `pool/volume` of each custom volume that was attached: LXD's exports do not have them.
 */
excluded_volumes?: string[]
/**
 * Bytes of the archive, unpacked.
 */
raw_size?: number
/**
 * How the archive is stored.
 */
compression_algorithm?: ("gzip" | "zstd" | "none")
/**
 * `container` or `virtual-machine`.
 */
type?: string
architecture?: string
/**
 * The storage pool that it was in.
 */
pool?: string
/**
 * The pool's.
 */
driver?: string
profiles?: string[]
snapshots?: string[]
/**
 * Of the LXD or Incus that made it; `unknown` of an upload.
 */
server_version?: string
/**
 * The version of lxstow.
 */
writer?: string
status?: ("Pending" | "Running" | "Cancelling" | "Success" | "Failure" | "Cancelled")
/**
 * What is being done.
 */
stage?: string
bytes_done?: number
bytes_total?: number
bytes_per_second?: number
progress?: number
/**
 * Path of the operation that makes it.
 */
operation?: string
})
/**
 * A chunk of a run's children, in the bucket lxstow_runs under <id>.plan.<plan>.<nnn>.
 * 
 * @maxItems 500
 */
export type RunPlan = RunChild[]

export interface Everything {
"backup-index.json"?: BackupIndex
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
 * What lists tell of a project's backups, so that not every manifest is read for them. It is believed only of manifests that the store lists with the same ETag and size.
 */
export interface BackupIndex {
version: 5
backups: IndexedBackup[]
}
export interface IndexedBackup {
instance: string
name: string
/**
 * The manifest's.
 */
etag: string
/**
 * Bytes of the manifest.
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
held: boolean
locked_until: (string | null)
}
/**
 * S3 object tags, by the rules that AWS and MinIO share: at most 10, ASCII letters, digits, space and + - = . _ : / @.
 */
export interface Tags {
/**
 * a tag's value: up to 256 of ASCII letters, digits, space and + - = . _ : / @
 */
[k: string]: string
}
/**
 * One file for gateway and workers. Each key has an environment variable: s3.accessKey is LXSTOW_S3_ACCESS_KEY; with _FILE added, the value is read from that file.
 */
export interface Config {
nats: NatsConfig
s3: S3Config
/**
 * The LXD servers, by name. A gateway needs the names only.
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
 * Servers of one cluster.
 * 
 * @minItems 1
 */
servers: string[]
/**
 * User, where the servers ask for one.
 */
user?: string
/**
 * Its password.
 */
password?: string
/**
 * A token in place of user and password.
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
 * Where answers come to, `_INBOX` by default. One of its own for each user keeps others from reading along: `_INBOX_gateway`.
 */
inboxPrefix?: string
/**
 * Path of a PEM file: the CA of the servers' certificates.
 */
ca?: string
/**
 * Path of a PEM file: our client certificate.
 */
certificate?: string
/**
 * Path of a PEM file: its key.
 */
key?: string
/**
 * For servers with `handshake_first: true`: TLS before their greeting. With `auto` it is not needed.
 */
tlsFirst?: boolean
/**
 * Copies of the stream and the buckets that `lxstow setup` asks for.
 */
replicas: number
/**
 * How long a finished operation can be asked for.
 */
operationsKeptHours: number
/**
 * How long a finished run can be asked for, and retried.
 */
runsKeptHours: number
/**
 * A job over this is refused with 503.
 */
maxQueuedJobs: number
}
export interface S3Config {
/**
 * The S3 server, with http:// or https://.
 */
endpoint: string
/**
 * Backups go into this folder, by a VersityGW of standalone's own that listens at `endpoint` ([s3.md](s3.md#a-folder-as-the-store)). In the place of accessKey and secretKey.
 */
folder?: string
/**
 * The same server as clients reach it, for presigned URLs. Default: `endpoint`.
 */
publicEndpoint?: string
/**
 * `lxstow setup` makes it where there is none.
 */
bucket: string
/**
 * The region that requests are signed for.
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
 * For keys that AWS's STS gave: their session token. When the store refuses the keys, file and environment are read anew, files named by `…_FILE` too.
 */
sessionToken?: string
/**
 * Whether parts carry `x-amz-checksum-crc32`; false: Content-MD5 instead, which costs CPU, for stores that refuse the header (Backblaze B2).
 */
checksumHeaders: boolean
/**
 * Put before each object's key, without a slash at either end.
 */
prefix: string
/**
 * Path of a PEM file: the CA of the server's certificate.
 */
ca?: string
/**
 * endpoint/bucket/key; false: bucket.endpoint/key.
 */
pathStyle: boolean
/**
 * A request over which no byte has moved for so long is given up.
 */
idleTimeoutMs: number
/**
 * A multipart upload as old as this is renewed: MinIO removes one a day after its beginning, finished or not.
 */
uploadMaxAgeMs: number
/**
 * Tries of each request, the first included.
 */
attempts: number
}
/**
 * With url: LXD or Incus over HTTPS. Else: the unix socket.
 */
export interface RemoteConfig {
/**
 * Path of LXD's or Incus's unix socket. Default: $LXD_DIR/unix.socket, $INCUS_SOCKET or $INCUS_DIR/unix.socket, else that of the one that is installed: LXD's snap, /var/lib/lxd or /var/lib/incus. Where both are, it must be set.
 */
socket?: string
/**
 * LXD's HTTPS address.
 */
url?: string
/**
 * Backups and restores at a time, over all workers of this remote. Default: as many as they have slots.
 */
transfers?: number
/**
 * The same for each of its storage pools: that of an instance's root disk counts.
 */
transfersPerPool?: number
/**
 * Storage pools that are to have another limit: `{"ssd": {"transfers": 4}}`.
 */
pools?: {
[k: string]: PoolConfig
}
/**
 * Path of a PEM file: our client certificate, trusted by that LXD.
 */
certificate?: string
/**
 * Path of a PEM file: its key.
 */
key?: string
/**
 * Path of a PEM file: the one server certificate that is accepted.
 */
serverCertificate?: string
}
export interface PoolConfig {
transfers?: number
}
export interface GatewayConfig {
/**
 * Where the API listens; 0.0.0.0 or :: for all interfaces.
 */
address: string
port: number
healthAddress: string
/**
 * /healthz, /readyz and /metrics over plain HTTP.
 */
healthPort: number
/**
 * Path of a PEM file: the server's certificate. Without it one is made, self-signed, in stateDir.
 */
certificate?: string
/**
 * Path of a PEM file: its key.
 */
key?: string
/**
 * Where a self-made certificate is kept. Default: $STATE_DIRECTORY, or ~/.local/state/lxstow.
 */
stateDir?: string
/**
 * A directory of PEM files: client certificates that are trusted, as admins. Read anew when it changes.
 */
trustDir?: string
/**
 * Path of a PEM file: a client certificate signed by this CA is trusted, as an admin.
 */
trustCa?: string
/**
 * Where clients reach the gateway, each as host:port: for tokens. Default: where it listens.
 * 
 * @minItems 1
 */
advertise?: string[]
/**
 * How long a token can be used, unless it is asked for otherwise.
 */
tokenExpiryHours: number
/**
 * Over so many refused calls of untrusted clients from one address, all further ones get 429; a wrong token counts as 10.
 */
refusalsPerMinute: number
/**
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
defaultRemote: string
bodyLimitBytes: number
/**
 * How long DELETE waits for the worker.
 */
deleteTimeoutMs: number
/**
 * How long a question to a worker may take.
 */
askTimeoutMs: number
/**
 * How long the workers may take to say which instances, projects and pools there are; those of a remote that takes longer are left out.
 */
inventoryTimeoutMs: number
/**
 * An instance whose last backup is older than this is overdue (docs/status.md). A day and two hours is what a daily backup may take.
 */
backupMaxAgeHours: number
/**
 * Exports and uploads at a time, each with two to six parts in memory; more are refused with 503.
 */
transfers: number
/**
 * The same of one client, so that it leaves room for others. Default: half of `transfers`, rounded up.
 */
transfersPerClient?: number
/**
 * What LXD refuses in restricted projects (privileged containers, `raw.*`, devices and paths of the host, …), in uploads and restores of clients that are restricted to projects. Into a project that is restricted on LXD, LXD decides ([security.md](security.md#what-restricted-clients-may-restore)).
 */
restrictedRestores: ("refuse" | "allow")
/**
 * A client that takes or sends nothing for so long in an export or upload is cut off, and so is one that takes or sends less than 1 KiB for each second of it.
 */
clientIdleTimeoutMs: number
}
export interface WorkerConfig {
/**
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
remote: string
/**
 * Backups and restores at a time. Each takes about 100 MB of memory.
 */
slots: number
/**
 * How often a job is begun before it fails for good; attempts that an outage ended do not count.
 */
attempts: number
/**
 * How long a job waits for S3 or LXD that are away, full, or do not let us in, before it fails for good.
 */
patienceHours: number
/**
 * After SIGTERM: how long running jobs may go on before they are handed back.
 */
graceMs: number
healthAddress: string
healthPort: number
/**
 * A worker that does not renew for so long is taken for dead.
 */
leaseTtlMs: number
/**
 * How often leases are renewed and NATS is told that a job is being worked on.
 */
heartbeatMs: number
/**
 * An LXD operation or export whose progress stands still for so long is given up.
 */
lxdIdleTimeoutMs: number
/**
 * What all slots together may read a second, of LXD for backups and of the store for restores: `20MiB`, `off`, or by the hours here: `08:00,512KiB 19:00,10MiB 23:00,off` ([limits.md](limits.md)).
 */
bandwidth: string
/**
 * So many parts of 16 MiB a backup sends at a time, while one more is filled; more only for a store that is far away.
 */
partsInFlight: number
/**
 * So much of an export is sent while LXD is still writing it; 0: nothing, before LXD has said that it is whole.
 */
sendAheadMiB: number
/**
 * Where a job does not say.
 */
compression: ("gzip" | "zstd" | "none")
/**
 * How often leftovers are looked for and removed; 0: only by `lxstow janitor`.
 */
janitorEveryMinutes: number
/**
 * A leftover that no operation is known to have made is removed when it is older than this.
 */
janitorGraceHours: number
/**
 * How often the workers of a remote look which instances LXD has, for `lxstow status`.
 */
inventoryEverySeconds: number
}
export interface NotifyConfig {
/**
 * URLs that are told how operations ended ([notifications.md](notifications.md)). `lxstow config` shows their hosts only.
 * 
 * @maxItems 20
 * 
 * Items: an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
endpoints: string[]
/**
 * Which ends `endpoints` are told. Who is named in a request is told its end, whichever it is.
 * 
 * @minItems 1
 */
events: ("success" | "failed" | "cancelled")[]
/**
 * Whether `endpoints` are also told of each backup and deletion of a run. The notice of the run itself has their counts and its first failures.
 */
children: boolean
/**
 * What notices are signed with: `whsec_` and the base64 of 24 bytes or more. Several, with spaces between: signed with each, to change it. Without it they are not signed.
 */
secret?: string
/**
 * Whether a request or a job may name an endpoint of its own, as `notifyEndpoint`.
 */
requests: boolean
/**
 * What such an endpoint must begin with: `https://hooks.example.net/backups`. When none is given: any address on the Internet, none of this host or of private networks.
 * 
 * Items: an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
allowed: string[]
/**
 * Path of a PEM file: CAs of endpoints, in the place of the system's.
 */
ca?: string
/**
 * How long an endpoint may take to answer.
 */
timeoutMs: number
/**
 * A notice that no try has delivered for so long is given up, and said in the log.
 */
giveUpAfterHours: number
}
export interface GzipConfig {
/**
 * ISA-L, by name or path (Debian: package libisal2): the same at a third of zlib's CPU, CRC-32 too. Where it cannot be used, or this is empty, zlib does it.
 */
library: string
}
export interface LogConfig {
level: ("error" | "warn" | "info" | "debug")
/**
 * auto: text on a terminal, else JSON.
 */
format: ("json" | "text" | "auto")
}
/**
 * What the REST API answers with, in LXD's envelopes. Clients must take further fields.
 */
export interface HttpAnswers {
[k: string]: unknown
}
/**
 * What LXD takes at PUT and PATCH /1.0/certificates/{fingerprint}, and a role. As in LXD, unknown fields are ignored.
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
 * admin may do everything; operator makes, restores and deletes backups; viewer looks at them.
 */
role?: ("admin" | "operator" | "viewer")
}
/**
 * What LXD takes at POST /1.0/certificates, and a role and an expiry. As in LXD, unknown fields are ignored.
 */
export interface CertificatesPostBody {
name?: (("" | string) & string)
type?: ("" | "client")
/**
 * DER in base64, or PEM; without it, the connection's own is meant.
 */
certificate?: string
/**
 * Makes a token for a client instead of adding a certificate.
 */
token?: boolean
/**
 * A token, as clients before LXD 5.21 send it.
 */
password?: string
trust_token?: string
restricted?: boolean
projects?: (null | Projects)
/**
 * admin may do everything; operator makes, restores and deletes backups; viewer looks at them.
 */
role?: ("admin" | "operator" | "viewer")
/**
 * Of a token; else after gateway.tokenExpiryHours.
 */
expires_at?: string
}
/**
 * What LXD takes at POST /1.0/instances/{name}/backups. As in LXD, unknown fields are ignored.
 */
export interface CreateBackupBody {
name?: (("" | string) & string)
instance_only?: boolean
/**
 * LXD's old word for instance_only.
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
 * Taken, as LXD's clients send it; lxstow keeps backups until they are deleted.
 */
expires_at?: (string | null)
}
/**
 * Archive and manifest are locked in the store for so many days from the beginning of the upload: neither lxstow nor, with mode compliance, anybody else can remove them. The bucket must have S3 Object Lock.
 */
export interface ObjectLock {
mode: ("governance" | "compliance")
days: number
}
/**
 * A batch of backups as one thing: which instances, and how. Unknown fields are refused.
 */
export interface CreateRunBody {
/**
 * The run's id. The same request with the same id again is the same run.
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
 * Which instances: those that fit all that is given. One of `all`, `instances` and `match` must be given. Instances with user.lxstow.exclude=true are never among them.
 */
export interface RunSelector {
/**
 * All of them, of the projects and remotes that are given.
 */
all?: boolean
instances?: Patterns
exclude?: Patterns1
projects?: Projects1
/**
 * LXD servers of the configuration; all without it.
 * 
 * @maxItems 1000
 * 
 * Items: A name in `remotes` of the configuration: an LXD server or cluster.
 */
remotes?: string[]
/**
 * And those, of these projects and remotes, that name this schedule in user.lxstow.schedule.
 */
schedule?: string
/**
 * `key=value`, `key!=value` or `key`, all of which must fit: name, status, type, architecture, location, or a key of the instance's configuration (`user.backup=daily`).
 * 
 * @maxItems 20
 */
match?: string[]
}
/**
 * Behind each backup, those of its instance that this does not keep are deleted.
 */
export interface KeepRule {
/**
 * The last n backups. -1, here and below: without end.
 */
keep_last?: number
/**
 * Of the last n hours that have backups, each one's last.
 */
keep_hourly?: number
/**
 * The same by days.
 */
keep_daily?: number
/**
 * The same by weeks, which begin on Monday.
 */
keep_weekly?: number
/**
 * The same by months.
 */
keep_monthly?: number
/**
 * The same by years.
 */
keep_yearly?: number
/**
 * All that are younger than this, seen from the newest one: years, months, days and hours, as 1y6m, 14d, 7d12h.
 */
keep_within?: string
/**
 * Those with one of these tags: a key, or key=value.
 * 
 * @maxItems 100
 */
keep_tags?: string[]
/**
 * So many of the newest stay, whatever the rest says; 1 without it.
 */
min_good?: number
/**
 * What becomes of user.lxstow.keep-daily and the like on an instance or its profiles. Of each option the longer counts (lengthen, which is usual), the instance's in the place of this one (replace: who may edit an instance may then have its backups deleted), or this one (ignore).
 */
instance_keys?: ("lengthen" | "replace" | "ignore")
/**
 * The time zone whose hours, days, weeks, months and years are meant, as IANA names it: Europe/Berlin. UTC without it.
 */
zone?: string
}
/**
 * What to keep of a project's backups, instance by instance.
 */
export interface PruneBody {
keep: KeepRule1
/**
 * Of these instances only. Without: of all in the project that have backups, also of those that are gone.
 * 
 * @minItems 1
 * @maxItems 10000
 * 
 * Items: An LXD instance, by LXD's rules: letters, digits and inner hyphens, not a number.
 */
instances?: string[]
/**
 * Delete nothing; say of each backup what would become of it.
 */
dry_run?: boolean
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
}
/**
 * Which of an instance's backups are kept, in restic's words: those that one of these keeps. What none keeps may be deleted.
 */
export interface KeepRule1 {
/**
 * The last n backups. -1, here and below: without end.
 */
keep_last?: number
/**
 * Of the last n hours that have backups, each one's last.
 */
keep_hourly?: number
/**
 * The same by days.
 */
keep_daily?: number
/**
 * The same by weeks, which begin on Monday.
 */
keep_weekly?: number
/**
 * The same by months.
 */
keep_monthly?: number
/**
 * The same by years.
 */
keep_yearly?: number
/**
 * All that are younger than this, seen from the newest one: years, months, days and hours, as 1y6m, 14d, 7d12h.
 */
keep_within?: string
/**
 * Those with one of these tags: a key, or key=value.
 * 
 * @maxItems 100
 */
keep_tags?: string[]
/**
 * So many of the newest stay, whatever the rest says; 1 without it.
 */
min_good?: number
/**
 * What becomes of user.lxstow.keep-daily and the like on an instance or its profiles. Of each option the longer counts (lengthen, which is usual), the instance's in the place of this one (replace: who may edit an instance may then have its backups deleted), or this one (ignore).
 */
instance_keys?: ("lengthen" | "replace" | "ignore")
/**
 * The time zone whose hours, days, weeks, months and years are meant, as IANA names it: Europe/Berlin. UTC without it.
 */
zone?: string
}
/**
 * Where and how to restore. What is left out is as it was when the backup was made.
 */
export interface RestoreBackupBody {
/**
 * An LXD instance, by LXD's rules: letters, digits and inner hyphens, not a number.
 */
name?: string
/**
 * An LXD storage pool.
 */
pool?: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project?: string
/**
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
target?: string
/**
 * Put the restored instance in the place of one that exists. On any failure that one stays as it was.
 */
replace?: boolean
start?: boolean
/**
 * Keep UUID, MACs and cloud-init identity of the archive, although an instance of that server has them, too: a restore under another name gets its own.
 */
keep_identity?: boolean
/**
 * False: without its network devices, for a look inside.
 */
network?: boolean
/**
 * Send the archive although the server is known not to take it.
 */
anyway?: boolean
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
}
/**
 * A new run of what failed in another. Unknown fields are refused.
 */
export interface RetryRunBody {
/**
 * The new run's id; the same again is the same run.
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
 * When which instances are backed up, and how: kept as it was written. Unknown fields are refused.
 */
export interface ScheduleBody {
description?: string
/**
 * Minute, hour, day, month and weekday as cron has them, or @hourly, @daily, @weekly, @monthly, @yearly.
 */
cron: string
/**
 * The time zone whose clock is meant, as IANA names it: Europe/Berlin. UTC without it.
 */
zone?: string
/**
 * Each instance begins up to so much later, and always by the same part of it: 30m.
 */
jitter?: string
/**
 * When backups may begin, by the same clock: 01:00-05:00. What has not begun at its end is skipped, and is the first the next time.
 */
window?: string
/**
 * What becomes of a time at which no gateway was at work: it is made up for once, which is usual, or recorded as missed.
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
 * Which instances: those that fit all that is given. One of `all`, `instances` and `match` must be given. Instances with user.lxstow.exclude=true are never among them.
 */
export interface RunSelector1 {
/**
 * All of them, of the projects and remotes that are given.
 */
all?: boolean
instances?: Patterns
exclude?: Patterns1
projects?: Projects1
/**
 * LXD servers of the configuration; all without it.
 * 
 * @maxItems 1000
 * 
 * Items: A name in `remotes` of the configuration: an LXD server or cluster.
 */
remotes?: string[]
/**
 * And those, of these projects and remotes, that name this schedule in user.lxstow.schedule.
 */
schedule?: string
/**
 * `key=value`, `key!=value` or `key`, all of which must fit: name, status, type, architecture, location, or a key of the instance's configuration (`user.backup=daily`).
 * 
 * @maxItems 20
 */
match?: string[]
}
/**
 * Which of an instance's backups are kept, in restic's words: those that one of these keeps. What none keeps may be deleted.
 */
export interface KeepRule2 {
/**
 * The last n backups. -1, here and below: without end.
 */
keep_last?: number
/**
 * Of the last n hours that have backups, each one's last.
 */
keep_hourly?: number
/**
 * The same by days.
 */
keep_daily?: number
/**
 * The same by weeks, which begin on Monday.
 */
keep_weekly?: number
/**
 * The same by months.
 */
keep_monthly?: number
/**
 * The same by years.
 */
keep_yearly?: number
/**
 * All that are younger than this, seen from the newest one: years, months, days and hours, as 1y6m, 14d, 7d12h.
 */
keep_within?: string
/**
 * Those with one of these tags: a key, or key=value.
 * 
 * @maxItems 100
 */
keep_tags?: string[]
/**
 * So many of the newest stay, whatever the rest says; 1 without it.
 */
min_good?: number
/**
 * What becomes of user.lxstow.keep-daily and the like on an instance or its profiles. Of each option the longer counts (lengthen, which is usual), the instance's in the place of this one (replace: who may edit an instance may then have its backups deleted), or this one (ignore).
 */
instance_keys?: ("lengthen" | "replace" | "ignore")
/**
 * The time zone whose hours, days, weeks, months and years are meant, as IANA names it: Europe/Berlin. UTC without it.
 */
zone?: string
}
/**
 * A schedule to be made.
 */
export interface SchedulesPostBody {
/**
 * a schedule's name: small letters, digits and hyphens, up to 63
 */
name: string
definition: ScheduleBody
}
/**
 * What can be changed of a backup. PUT: what is left out becomes empty. PATCH: it stays, and a tag of null is removed. The other fields are taken as GET shows them, and change nothing.
 */
export interface UpdateBackupBody {
tags?: {
[k: string]: string | null
}
/**
 * What people want to remember of a backup.
 */
notes?: string
/**
 * A pinned backup is not deleted. What is left out stays, by PUT too.
 */
pinned?: boolean
/**
 * A legal hold of the store on a backup, which is pinned then. It ends with the pin.
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
 * What is known of one instance, kept in the bucket lxstow_instances under <remote>.<project>.<instance>. Each field has one writer; all of it can be made again from the bucket in S3 and from LXD (`lxstow rebuild`).
 */
export interface InstanceRecord {
seen?: SeenInstance
good?: GoodBackup
/**
 * When a backup of it was deleted last. A report of a backup that was made before is looked into: it may be the deleted one.
 */
removed?: string
last?: LastBackupJob
}
/**
 * What the inventory found in LXD. Written only when it changes. Absent: no inventory has met the instance yet.
 */
export interface SeenInstance {
/**
 * When it was found to be so.
 */
at: string
/**
 * user.lxstow.exclude is true, on it or by a profile.
 */
excluded: boolean
/**
 * Those that user.lxstow.schedule names, on it or by a profile.
 */
schedules?: string[]
/**
 * volatile.uuid, by which a renamed instance is known again.
 */
uuid?: string
keep?: InstanceKeep
was?: NamedInstance
/**
 * Since when LXD does not have it under this name.
 */
gone?: string
renamed?: NamedInstance
}
/**
 * The user.lxstow.keep-* keys on it or on a profile of it, as they were written; of an instance that is gone, the last ones.
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
 * What a renamed or moved instance `was` called before, or was `renamed` to.
 */
export interface NamedInstance {
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * An LXD instance, by LXD's rules: letters, digits and inner hyphens, not a number.
 */
instance: string
}
/**
 * The youngest backup that is in the store, written by who writes or deletes its manifest.
 */
export interface GoodBackup {
/**
 * A backup. It is the last part of an object key, so it is kept to letters, digits, dot, hyphen and underscore.
 */
backup: string
/**
 * When it was made, by its manifest.
 */
at: string
/**
 * Bytes of the archive.
 */
size: number
}
/**
 * How the last backup job of it ended, written by who ended it.
 */
export interface LastBackupJob {
operation: string
/**
 * The run that it belonged to.
 */
run?: string
at: string
outcome: ("success" | "failure" | "cancelled")
/**
 * Why, where it did not end well.
 */
reason?: string
}
/**
 * Back up the instance that the subject names: lxstow.jobs.<remote>.backup.<project>.<instance>. An empty message means {}.
 */
export interface BackupJob {
/**
 * A backup. It is the last part of an object key, so it is kept to letters, digits, dot, hyphen and underscore.
 */
backup?: string
/**
 * How the archive is stored.
 */
compression?: ("gzip" | "zstd" | "none")
/**
 * The storage driver's own format. Restorable only into a pool of the same driver.
 */
optimized?: boolean
/**
 * Leave the instance's snapshots out.
 */
instance_only?: boolean
object_lock?: ObjectLock
tags?: Tags
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
/**
 * The run that it is part of.
 */
run?: string
requestor?: Requestor
}
/**
 * Who asked, as LXD's lifecycle events word it.
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
 * A backup. It is the last part of an object key, so it is kept to letters, digits, dot, hyphen and underscore.
 */
backup: string
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
requestor?: Requestor
}
/**
 * Delete what the rule does not keep of the backups of the instance that the subject names: lxstow.jobs.<remote>.prune.<project>.<instance>.
 */
export interface PruneJob {
keep: KeepRule1
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
/**
 * The run behind whose backup it comes.
 */
run?: string
requestor?: Requestor
}
/**
 * Restore a backup as the instance that the subject names: lxstow.jobs.<remote>.restore.<project>.<instance>. It must not exist yet.
 */
export interface RestoreJob {
/**
 * A backup. It is the last part of an object key, so it is kept to letters, digits, dot, hyphen and underscore.
 */
backup: string
/**
 * Whose backup it is. What is left out is as in the subject.
 */
source?: {
/**
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
remote?: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project?: string
/**
 * An LXD instance, by LXD's rules: letters, digits and inner hyphens, not a number.
 */
instance?: string
}
/**
 * An LXD storage pool.
 */
pool?: string
/**
 * An instance of that name that is there gives way, once the restored one is proved good; it is deleted last.
 */
replace?: boolean
/**
 * Start the instance when it is restored.
 */
start?: boolean
/**
 * Keep UUID, MACs and cloud-init identity of the archive, although an instance of that server has them, too.
 */
keep_identity?: boolean
/**
 * False: without its network devices, for a look inside.
 */
network?: boolean
/**
 * Send the archive although the server is known not to take it.
 */
anyway?: boolean
/**
 * an http:// or https:// URL, without user, password and fragment, of 2048 characters at most
 */
notifyEndpoint?: string
requestor?: Requestor
}
/**
 * What makes an archive a backup: all that a restore on an empty host needs. Unknown fields are kept.
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
 * A backup. It is the last part of an object key, so it is kept to letters, digits, dot, hyphen and underscore.
 */
name: string
/**
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
remote: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * An LXD instance, by LXD's rules: letters, digits and inner hyphens, not a number.
 */
instance: string
created: string
tags: Tags
/**
 * What people want to remember of a backup.
 */
notes?: string
/**
 * It is not deleted, whatever asks for it, until it is unpinned.
 */
pinned?: boolean
/**
 * It is pinned, and the store has a legal hold on archive and manifest.
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
 * Bytes of the tar that LXD exported.
 */
rawSize: number
/**
 * How the archive is stored.
 */
compression: ("gzip" | "zstd" | "none")
optimized: boolean
instanceOnly: boolean
/**
 * Bytes of the tar in each compressed block.
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
 * The first byte of the tar that this part holds.
 */
rawStart: number
/**
 * One past the last.
 */
rawEnd: number
/**
 * Bytes stored.
 */
size: number
etag: string
sha256: string
/**
 * As S3 writes it: base64 of the big-endian sum.
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
 * The object that an adopted backup is a copy of.
 */
export interface ManifestSource {
endpoint: string
bucket: string
key: string
etag: string
size: number
}
/**
 * The words that every other schema shares.
 */
export interface Names {
[k: string]: unknown
}
/**
 * Bodies of requests and answers over NATS. An empty request means {}. services/gateway/natsApi/endpoints.ts has their subjects.
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
 * At most so many; fewer where more would not fit a message.
 */
limit?: number
/**
 * `next` of the page before.
 */
after?: string
}
export interface BackupRequest {
/**
 * A backup. It is the last part of an object key, so it is kept to letters, digits, dot, hyphen and underscore.
 */
backup: string
}
export interface OperationsRequest {
/**
 * Only those.
 */
status?: ("Pending" | "Running" | "Cancelling" | "Success" | "Failure" | "Cancelled")
/**
 * At most so many; fewer where more would not fit a message.
 */
limit?: number
/**
 * `next` of the page before.
 */
after?: string
}
export interface OperationRequest {
id: string
}
export interface WaitRequest {
id: string
/**
 * Seconds. When they are over, the operation is answered as it is then.
 */
timeout?: number
}
export interface StatusRequest {
/**
 * Only those.
 */
state?: ("ok" | "overdue" | "never" | "failing" | "excluded" | "gone")
/**
 * A last backup that is older than this is too old, whatever schedules say: 90m, 26h, 8d. Default: by its schedules; gateway.backupMaxAgeHours for instances without one.
 */
older_than?: string
/**
 * At most so many; fewer where more would not fit a message.
 */
limit?: number
/**
 * `next` of the page before.
 */
after?: string
}
export interface StatusPage {
/**
 * By name.
 */
instances: InstanceStatus[]
/**
 * There is more: ask again with this as `after`.
 */
next?: string
}
export interface InstanceStatus {
/**
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
host: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * An LXD instance, by LXD's rules: letters, digits and inner hyphens, not a number.
 */
instance: string
/**
 * docs/status.md says what each is, and what to do.
 */
state: ("ok" | "overdue" | "never" | "failing" | "excluded" | "gone")
/**
 * When its youngest backup in the store was made; null where there is none.
 */
last_success: (string | null)
/**
 * Those that cover it, as far as who asks may see them; absent where there are none.
 * 
 * Items: a schedule's name: small letters, digits and hyphens, up to 63
 */
schedules?: string[]
/**
 * Why it is in this state, in words; empty where it is ok, unless a schedule of it is paused.
 */
reason: string
}
export interface BackupPage {
/**
 * By instance and name.
 */
backups: ListedBackup[]
/**
 * There is more: ask again with this as `after`.
 */
next?: string
}
/**
 * A backup in a list.
 */
export interface ListedBackup {
/**
 * A backup. It is the last part of an object key, so it is kept to letters, digits, dot, hyphen and underscore.
 */
name: string
/**
 * When it was made.
 */
created: string
/**
 * The same, by LXD's name.
 */
created_at: string
/**
 * LXD's; never: nothing expires by itself.
 */
expires_at: "0001-01-01T00:00:00Z"
/**
 * Bytes of the archive, as far as it is stored.
 */
size: number
optimized: boolean
/**
 * The same, by LXD's name.
 */
optimized_storage: boolean
compressed: boolean
/**
 * Without the instance's snapshots.
 */
instance_only: boolean
/**
 * The same, by the name that LXD had for it.
 */
container_only: boolean
tags: Tags
/**
 * It is not deleted until it is unpinned.
 */
pinned: boolean
/**
 * Pinned, and held in the store by a legal hold.
 */
held: boolean
/**
 * Until when the store lets nobody remove it; null where it was never locked.
 */
locked_until: (string | null)
/**
 * An LXD instance, by LXD's rules: letters, digits and inner hyphens, not a number.
 */
instance: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
location: string
}
export interface OperationPage {
/**
 * The newest first.
 */
operations: ShownOperation[]
/**
 * There is more: ask again with this as `after`.
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
 * 200 and above: it has ended, at `updated_at`.
 */
status_code: (105 | 103 | 104 | 200 | 400 | 401)
resources?: Resources
/**
 * Progress as in operation.json, the stage while it runs; `code` (docs/troubleshooting.md) where it failed; `run`, the id of the run that a backup is part of; of a restore `source`: whose backup it is, `location`, `project`, `instance`, `name`.
 */
metadata?: {

}
may_cancel: boolean
err: string
/**
 * The remote.
 */
location: string
}
export interface Resources {
[k: string]: string[]
}
/**
 * What a rule makes of a backup.
 */
export interface PruneVerdict {
/**
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
location: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * An LXD instance, by LXD's rules: letters, digits and inner hyphens, not a number.
 */
instance: string
/**
 * A backup. It is the last part of an object key, so it is kept to letters, digits, dot, hyphen and underscore.
 */
backup: string
created: string
/**
 * Bytes of the archive.
 */
size: number
action: ("keep" | "delete")
/**
 * Why it is kept: `daily 2026-11-28`, `pinned`. Empty where no rule keeps it.
 */
reasons: string[]
}
/**
 * A schedule, and when it is due next.
 */
export interface ShownSchedule {
/**
 * a schedule's name: small letters, digits and hyphens, up to 63
 */
name: string
definition: ScheduleBody
created_at: string
updated_at: string
requestor?: Requestor
/**
 * Times up to this one are done with: it was created, changed or resumed then, or the last time it was due.
 */
since: string
last?: ScheduleLast
paused?: SchedulePause
/**
 * With the offset of its zone; absent while it is paused.
 */
next?: string
/**
 * Why its requestor may no longer have it. Where that client was restricted to projects, the schedule is paused.
 */
owner_trouble?: string
}
/**
 * The last time at which it was due.
 */
export interface ScheduleLast {
/**
 * The local time as the rule says it.
 */
slot: string
at: string
run: string
}
/**
 * While it is paused nothing is due.
 */
export interface SchedulePause {
since: string
/**
 * Fingerprint of the client.
 */
by?: string
reason?: string
/**
 * It goes on by itself then.
 */
until?: string
}
export interface SchedulePage {
/**
 * By name.
 */
schedules: ShownSchedule[]
/**
 * There is more: ask again with this as `after`.
 */
next?: string
}
export interface ScheduleRequest {
/**
 * a schedule's name: small letters, digits and hyphens, up to 63
 */
name: string
}
export interface SchedulePauseRequest {
/**
 * a schedule's name: small letters, digits and hyphens, up to 63
 */
name: string
reason?: string
until?: string
}
export interface ScheduleRunRequest {
/**
 * a schedule's name: small letters, digits and hyphens, up to 63
 */
name: string
/**
 * The run's id. The same request with the same id again is the same run.
 */
id?: string
}
export interface ScheduleNextRequest {
/**
 * a schedule's name: small letters, digits and hyphens, up to 63
 */
name: string
/**
 * When each instance is due the next time.
 */
instances?: boolean
/**
 * How many times.
 */
count?: number
}
export interface ScheduledTimes {
/**
 * The earliest first.
 */
times: ScheduledAt[]
/**
 * Hosts whose instances are not in the list, and why.
 */
silent?: {
[k: string]: string
}
}
/**
 * A time at which a schedule is due, or, with its place, one at which an instance is.
 */
export interface ScheduledAt {
/**
 * a schedule's name: small letters, digits and hyphens, up to 63
 */
schedule: string
/**
 * With the offset of the schedule's zone.
 */
at: string
/**
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
host?: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project?: string
/**
 * An LXD instance, by LXD's rules: letters, digits and inner hyphens, not a number.
 */
instance?: string
keep?: KeepRule3
keys?: InstanceKeep1
}
/**
 * Which of an instance's backups are kept, in restic's words: those that one of these keeps. What none keeps may be deleted.
 */
export interface KeepRule3 {
/**
 * The last n backups. -1, here and below: without end.
 */
keep_last?: number
/**
 * Of the last n hours that have backups, each one's last.
 */
keep_hourly?: number
/**
 * The same by days.
 */
keep_daily?: number
/**
 * The same by weeks, which begin on Monday.
 */
keep_weekly?: number
/**
 * The same by months.
 */
keep_monthly?: number
/**
 * The same by years.
 */
keep_yearly?: number
/**
 * All that are younger than this, seen from the newest one: years, months, days and hours, as 1y6m, 14d, 7d12h.
 */
keep_within?: string
/**
 * Those with one of these tags: a key, or key=value.
 * 
 * @maxItems 100
 */
keep_tags?: string[]
/**
 * So many of the newest stay, whatever the rest says; 1 without it.
 */
min_good?: number
/**
 * What becomes of user.lxstow.keep-daily and the like on an instance or its profiles. Of each option the longer counts (lengthen, which is usual), the instance's in the place of this one (replace: who may edit an instance may then have its backups deleted), or this one (ignore).
 */
instance_keys?: ("lengthen" | "replace" | "ignore")
/**
 * The time zone whose hours, days, weeks, months and years are meant, as IANA names it: Europe/Berlin. UTC without it.
 */
zone?: string
}
/**
 * The user.lxstow.keep-* keys on it or on a profile of it, as they were written; of an instance that is gone, the last ones.
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
 * How an operation ended, as endpoints are told. The fields in camelCase are those of lxmin's notifications; the rest are as operations have them. More may come.
 */
export interface Notice {
opType: ("backup" | "restore" | "delete" | "prune" | "upload")
state: ("success" | "failed" | "cancelled")
/**
 * The backup; empty where it came to no name.
 */
name: string
/**
 * The instance that was backed up, or that was restored.
 */
instance: string
/**
 * When it was asked for.
 */
startedAt: string
/**
 * When it ended in success.
 */
completedAt?: string
/**
 * When it failed.
 */
failedAt?: string
/**
 * The API's path for what was asked, by whichever way it came.
 */
rawURL: string
/**
 * Why it failed.
 */
error?: string
operation: string
kind: ("backup" | "restore" | "delete" | "prune" | "upload")
status: ("Success" | "Failure" | "Cancelled")
status_code: (200 | 400 | 401)
/**
 * One of the codes in docs/troubleshooting.md, where there is an error.
 */
code?: string
/**
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
location: string
project: string
/**
 * A backup. It is the last part of an object key, so it is kept to letters, digits, dot, hyphen and underscore.
 */
backup?: string
/**
 * Of a restore, whose backup it was, where that is said; what is left out is as in the notice.
 */
source?: {
/**
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
location?: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project?: string
/**
 * An LXD instance, by LXD's rules: letters, digits and inner hyphens, not a number.
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
 * From the request to the end, waiting and retries included.
 */
duration_seconds: number
/**
 * How many times a worker began it.
 */
attempts: number
/**
 * The W3C trace id of the request.
 */
trace?: string
warnings?: string[]
}
/**
 * One job's state, kept in the bucket lxstow_operations under <remote>.<id>. The first twelve fields are LXD's own, and the API shows only these (services/gateway/views/operationView.ts), with `code`, `run` and `source` added to the metadata; the rest are lxstow's.
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
 * The remote.
 */
location: string
kind: ("backup" | "restore" | "delete" | "prune" | "upload")
/**
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
remote: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * An LXD instance, by LXD's rules: letters, digits and inner hyphens, not a number.
 */
instance: string
/**
 * A backup. It is the last part of an object key, so it is kept to letters, digits, dot, hyphen and underscore.
 */
backup?: string
requestor?: Requestor
/**
 * The W3C trace id of the request that it came from; log lines have it too.
 */
trace?: string
/**
 * What was asked for: the job's message, as far as it matched its schema.
 */
request?: {

}
/**
 * One of the codes in services/contract/errors.ts, where err is not empty.
 */
error_code?: string
/**
 * How many times a worker has begun it.
 */
attempt: number
/**
 * Since when what the job needs is away: its waiting, and the attempts that this has ended, are not counted as attempts.
 */
waiting_since?: string
/**
 * How many attempts LXD has cut by ending or being started again. They are not counted as attempts, but it waits twice as long after each.
 */
cut_by_lxd?: number
/**
 * The worker that runs it, or the gateway that takes an upload.
 */
owner?: string
checkpoint?: Checkpoint
}
/**
 * What a client can draw.
 */
export interface OperationMetadata {
stage?: ("generating" | "uploading" | "restoring" | "unpacking" | "swapping" | "starting" | "deleting")
/**
 * Bytes of the uncompressed archive that are through.
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
 * Average of the present stage.
 */
bytes_per_second?: number
/**
 * Room on the disk on which LXD writes its copy, at the last look while it wrote; absent where a worker cannot see that disk.
 */
lxd_free_bytes?: number
/**
 * The same as LXD words it.
 */
create_backup_progress?: string
/**
 * Backups that a prune has left.
 */
backups_kept?: number
/**
 * Backups that a prune has deleted so far.
 */
backups_deleted?: number
/**
 * Size of the archives that a deletion or prune has deleted.
 */
bytes_freed?: number
/**
 * The same of archives that the bucket keeps as old versions: their space is free when these are removed, by a lifecycle rule or by hand.
 */
bytes_in_old_versions?: number
/**
 * What a job that could run waits for, because others have it or it is away: `instance c1`, `storage pool default`, `remote local`, `S3, away since …`.
 */
waiting_for?: string
/**
 * Why the last attempt ended, where another is due.
 */
retry_reason?: string
warnings?: string[]
}
/**
 * What an attempt has made elsewhere, for the next attempt to go on from or to remove.
 */
export interface Checkpoint {
lxdBackup?: string
/**
 * So much room on LXD's disk was not enough for its copy.
 */
tooLittleBytes?: number
key?: string
uploadId?: string
removing?: RemovedBackup
/**
 * Names of the profiles that the restore has made.
 */
profiles?: string[]
/**
 * An import has begun, under the operation's own name.
 */
importing?: boolean
/**
 * The process of LXD in which the last import began. If that has ended, the instance may be half made.
 */
lxdPid?: number
/**
 * Number of the name under which it is imported, where the names before are blocked by volumes that LXD has left.
 */
importName?: number
kept?: KeptConfig
/**
 * It is marked, does not start by itself, and is no twin.
 */
prepared?: boolean
/**
 * The instance that gives way, as it was before it was stopped.
 */
replaced?: {
status: string
kept: KeptConfig1
}
/**
 * Which instance had the name when its replacement began.
 */
givingWay?: string
/**
 * The restored instance gets its own configuration back now.
 */
handedOver?: boolean
/**
 * The restored instance has its name, and has run where that was wanted: nothing walks back.
 */
swapped?: boolean
/**
 * Why a replace walks back.
 */
failed?: string
}
/**
 * The backup that is being deleted: another one may have its name by the time of the next attempt.
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
 * What made it; absent where its manifest cannot be read.
 */
operation?: string
}
/**
 * What the archive says of the keys that a restore changes for a time.
 */
export interface KeptConfig {
[k: string]: string
}
/**
 * Configuration keys of an instance; an empty value is that of an absent key.
 */
export interface KeptConfig1 {
[k: string]: string
}
/**
 * What a remote's jobs need and do not get, kept in the bucket lxstow_leases under <remote>.=away.s3, and <remote>.=away.lxd.<worker> for a worker's own LXD. Written by the worker that looks whether it is back; gone when it is, and soon after that worker has died.
 */
export interface Outage {
dependency: ("s3" | "lxd")
since: string
/**
 * One of the codes in services/contract/errors.ts: what it said last.
 */
code: string
/**
 * The same in words.
 */
reason: string
/**
 * How many jobs may be at work on it: 0 while it is away, then more and more.
 */
allowed: number
/**
 * It lets us read: only backups wait. Absent where nothing is served.
 */
only?: "writes"
/**
 * The worker that looks whether it is back.
 */
worker: string
}
/**
 * What the command line reads in the metadata of a gateway's answers. Further fields are taken.
 */
export interface ReadAnswers {
[k: string]: unknown
}
/**
 * Runs as the API shows them, over HTTPS and NATS, and what is asked about them over NATS.
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
 * A run, as far as who asks may see its projects.
 */
export interface ShownRun {
id: string
status: ("Running" | "Cancelling" | "Success" | "Failure" | "Cancelled")
/**
 * 200 and above: it has ended.
 */
status_code: (103 | 104 | 200 | 400 | 401)
/**
 * Its place in the order, the first first.
 */
class: ("hand" | "retry" | "catch-up" | "scheduled")
schedule?: RunSchedule
/**
 * The run whose failed children it repeats.
 */
retry_of?: string
created_at: string
updated_at: string
ended_at?: string
selector: RunSelector
/**
 * compression_algorithm, optimized_storage, instance_only, tags, as they were asked for.
 */
options: {

}
counts: RunCounts
/**
 * In the object store, of those that succeeded.
 */
bytes: number
/**
 * From the run's begin on.
 */
bytes_per_second?: number
/**
 * As the children so far make one expect; absent before the first has ended.
 */
seconds_left?: number
away: RunAway[]
/**
 * The first of them; `children` has all.
 */
failures: RunFailure[]
/**
 * Instances that fitted, but have user.lxstow.exclude=true.
 */
excluded: number
/**
 * The path of its operation.
 */
operation: string
}
/**
 * Of a scheduled run: what it was made for, and when its children may begin.
 */
export interface RunSchedule {
name: string
/**
 * The local time as the schedule's rule says it.
 */
slot: string
starts_at: string
jitter_seconds?: number
/**
 * Children that have not begun then are skipped.
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
 * Queued or at work already, by something else.
 */
skipped: number
cancelled: number
running: number
pending: number
}
export interface RunAway {
/**
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
remote: string
since: string
reason: string
/**
 * False: it could not be asked what it has; its children are planned when it answers.
 */
planned: boolean
/**
 * Its children so far are those that the records of instances named. They wait until it answers; then those that it has besides are added, and those that it does not have are skipped.
 */
planned_from?: "records"
}
export interface RunFailure {
/**
 * Empty where the whole run is meant.
 */
remote: string
/**
 * Empty where a whole remote is meant.
 */
project: string
/**
 * Empty where a whole remote is meant.
 */
instance: string
reason: string
error_code?: string
}
export interface RunPage {
/**
 * The newest first.
 */
runs: ShownRun[]
/**
 * There is more: ask again with this as `after`.
 */
next?: string
}
export interface RunChildPage {
/**
 * In the order in which they are begun.
 */
children: ShownRunChild[]
/**
 * There is more: ask again with this as `after`.
 */
next?: string
}
export interface ShownRunChild {
/**
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
remote: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * An LXD instance, by LXD's rules: letters, digits and inner hyphens, not a number.
 */
instance: string
state: ("success" | "failure" | "skipped" | "cancelled" | "running" | "pending")
/**
 * The path of its operation, which is there once it is on the queue.
 */
operation: string
/**
 * A backup. It is the last part of an object key, so it is kept to letters, digits, dot, hyphen and underscore.
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
 * At most so many; fewer where more would not fit a message.
 */
limit?: number
/**
 * `next` of the page before.
 */
after?: string
}
export interface RunChildrenRequest {
id: string
/**
 * Only those.
 */
state?: ("success" | "failure" | "skipped" | "cancelled" | "running" | "pending")
/**
 * At most so many; fewer where more would not fit a message.
 */
limit?: number
/**
 * `next` of the page before.
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
 * How a run ended, as endpoints are told; the run as the API shows it is in `run`.
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
 * A name in `remotes` of the configuration: an LXD server or cluster.
 */
remote: string
/**
 * An LXD project, by LXD's rules: no slash, white space, quote, underscore, star or control character.
 */
project: string
/**
 * An LXD instance, by LXD's rules: letters, digits and inner hyphens, not a number.
 */
instance: string
state: ("success" | "failure" | "skipped" | "cancelled" | "running" | "pending")
/**
 * A backup. It is the last part of an object key, so it is kept to letters, digits, dot, hyphen and underscore.
 */
backup?: string
/**
 * In the object store.
 */
bytes?: number
/**
 * Why it failed, was skipped or cancelled.
 */
reason?: string
error_code?: string
/**
 * Of a skipped one: the operation, or the run, that has the instance already.
 */
by?: string
/**
 * Of a skipped one: since when.
 */
since?: string
/**
 * The window of its schedule's last run left it out: it begins without jitter.
 */
first?: true
}
/**
 * A run's head, in the bucket lxstow_runs under <id>.head. Its children are in <id>.plan.<plan>.<nnn>.
 */
export interface Run {
id: string
/**
 * Which of the plans under this id counts. A secret: the ids of the children's operations are made of it.
 */
plan: string
/**
 * How many chunks the plan has.
 */
chunks: number
status: ("Running" | "Cancelling" | "Success" | "Failure" | "Cancelled")
/**
 * Its place in the order, the first first.
 */
class: ("hand" | "retry" | "catch-up" | "scheduled")
schedule?: RunSchedule
/**
 * The run whose failed children it repeats.
 */
retry_of?: string
created_at: string
updated_at: string
ended_at?: string
request: CreateRunBody
requestor?: Requestor
trace?: string
/**
 * By `<remote>/<project>`.
 */
places: {
[k: string]: RunTally
}
/**
 * Remotes that its children wait for.
 */
away: RunAway[]
/**
 * The first of them.
 */
failures: RunFailure[]
/**
 * Instances that fitted, but have user.lxstow.exclude=true.
 */
excluded: number
}
/**
 * Children by state, those of none left out; and bytes in the store of those that succeeded.
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
 * a schedule's name: small letters, digits and hyphens, up to 63
 */
name: string
definition: ScheduleBody
/**
 * Makes the ids of its runs such that nobody can make a run under one of them before it is due. The API leaves it out.
 */
token: string
created_at: string
updated_at: string
requestor?: Requestor1
/**
 * Whoever wrote the definition last, or resumed the schedule, is restricted to projects. The schedule is paused when that client may no longer use them.
 */
restricted?: true
/**
 * Instances are expected to have backups of the times after this one: it was created then, or its time changed.
 */
begun?: string
/**
 * Times up to this one are done with: it was created, changed or resumed then, or the last time it was due.
 */
since: string
last?: ScheduleLast
paused?: SchedulePause
}
/**
 * Who asked, as LXD's lifecycle events word it.
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
 * The end of a certificate's or a token's trust. It takes the place of the certificate or the token in the bucket lxstow_trust: NATS may restore a key that was removed.
 */
export interface TrustEnd {
/**
 * A token is used by the client that it makes trusted.
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
 * admin may do everything; operator makes, restores and deletes backups; viewer looks at them.
 */
role: ("admin" | "operator" | "viewer")
/**
 * Of the gateway's certificate.
 */
fingerprint: string
/**
 * host:port of the gateway.
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
 * It gets no further than its projects.
 */
restricted: boolean
projects: Projects
/**
 * admin may do everything; operator makes, restores and deletes backups; viewer looks at them.
 */
role: ("admin" | "operator" | "viewer")
added_at: string
}
