/** The shared contract: types and validators of the schemas. No I/O. */
import { Ajv2020, type ErrorObject, type ValidateFunction } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import backupIndex from '../../schemas/backup-index.json' with { type: 'json' };
import config from '../../schemas/config.json' with { type: 'json' };
import httpCertificatePut from '../../schemas/http-certificate-put.json' with { type: 'json' };
import httpCertificatesPost from '../../schemas/http-certificates-post.json' with { type: 'json' };
import httpCreateBackup from '../../schemas/http-create-backup.json' with { type: 'json' };
import httpCreateRun from '../../schemas/http-create-run.json' with { type: 'json' };
import httpPrune from '../../schemas/http-prune.json' with { type: 'json' };
import httpRestoreBackup from '../../schemas/http-restore-backup.json' with { type: 'json' };
import httpRetryRun from '../../schemas/http-retry-run.json' with { type: 'json' };
import httpSchedule from '../../schemas/http-schedule.json' with { type: 'json' };
import httpSchedulePause from '../../schemas/http-schedule-pause.json' with { type: 'json' };
import httpSchedulesPost from '../../schemas/http-schedules-post.json' with { type: 'json' };
import httpUpdateBackup from '../../schemas/http-update-backup.json' with { type: 'json' };
import instanceRecord from '../../schemas/instance-record.json' with { type: 'json' };
import jobBackup from '../../schemas/job-backup.json' with { type: 'json' };
import jobDelete from '../../schemas/job-delete.json' with { type: 'json' };
import jobPrune from '../../schemas/job-prune.json' with { type: 'json' };
import jobRestore from '../../schemas/job-restore.json' with { type: 'json' };
import keepRule from '../../schemas/keep-rule.json' with { type: 'json' };
import manifest from '../../schemas/manifest.json' with { type: 'json' };
import names from '../../schemas/names.json' with { type: 'json' };
import natsApi from '../../schemas/nats-api.json' with { type: 'json' };
import notice from '../../schemas/notice.json' with { type: 'json' };
import operation from '../../schemas/operation.json' with { type: 'json' };
import outage from '../../schemas/outage.json' with { type: 'json' };
import progress from '../../schemas/progress.json' with { type: 'json' };
import readAnswers from '../../schemas/read-answers.json' with { type: 'json' };
import requestor from '../../schemas/requestor.json' with { type: 'json' };
import run from '../../schemas/run.json' with { type: 'json' };
import runAnswers from '../../schemas/run-answers.json' with { type: 'json' };
import runPlan from '../../schemas/run-plan.json' with { type: 'json' };
import schedule from '../../schemas/schedule.json' with { type: 'json' };
import trustEnd from '../../schemas/trust-end.json' with { type: 'json' };
import trustToken from '../../schemas/trust-token.json' with { type: 'json' };
import trustedCertificate from '../../schemas/trusted-certificate.json' with { type: 'json' };
import type * as types from '../../schemas/types.ts';
import { type ErrorCode, LxstowError } from './errors.ts';

export type * from '../../schemas/types.ts';

export type Compression = NonNullable<types.BackupJob['compression']>;
/** `operator` makes, restores and deletes backups; `viewer` only reads. */
export type Role = types.TrustedCertificate['role'];
export type OperationKind = types.Operation['kind'];
/** The kinds that a message can ask for. */
export type JobKind = Exclude<OperationKind, 'upload'>;

/** The instance that a job is about: three tokens of its subject. */
export interface Address {
  remote: string;
  project: string;
  instance: string;
}

/** Identifies a backup. backups/keys.ts derives its keys from it. */
export interface BackupAddress extends Address {
  backup: string;
}

interface Types {
  'backup-index.json': types.IndexedBackup;
  'config.json': types.Config;
  'http-create-backup.json': types.CreateBackupBody;
  'http-create-run.json': types.CreateRunBody;
  'http-retry-run.json': types.RetryRunBody;
  'http-certificate-put.json': types.CertificatePutBody;
  'http-certificates-post.json': types.CertificatesPostBody;
  'http-prune.json': types.PruneBody;
  'http-restore-backup.json': types.RestoreBackupBody;
  'http-schedule.json': types.ScheduleBody;
  'http-schedule-pause.json': types.SchedulePauseBody;
  'http-schedules-post.json': types.SchedulesPostBody;
  'http-update-backup.json': types.UpdateBackupBody;
  'instance-record.json': types.InstanceRecord;
  'job-backup.json': types.BackupJob;
  'job-delete.json': types.DeleteJob;
  'job-prune.json': types.PruneJob;
  'job-restore.json': types.RestoreJob;
  'keep-rule.json': types.KeepRule;
  'manifest.json': types.Manifest;
  'nats-api.json#/$defs/listRequest': types.ListRequest;
  'nats-api.json#/$defs/backupRequest': types.BackupRequest;
  'nats-api.json#/$defs/operationsRequest': types.OperationsRequest;
  'nats-api.json#/$defs/operationRequest': types.OperationRequest;
  'nats-api.json#/$defs/waitRequest': types.WaitRequest;
  'nats-api.json#/$defs/statusRequest': types.StatusRequest;
  'nats-api.json#/$defs/statusPage': types.StatusPage;
  'nats-api.json#/$defs/olderThan': string;
  'nats-api.json#/$defs/instanceState': types.InstanceStatus['state'];
  'nats-api.json#/$defs/backupPage': types.BackupPage;
  'nats-api.json#/$defs/backup': types.ShownBackup;
  'nats-api.json#/$defs/operationPage': types.OperationPage;
  'nats-api.json#/$defs/operation': types.ShownOperation;
  'nats-api.json#/$defs/schedule': types.ShownSchedule;
  'nats-api.json#/$defs/schedulePage': types.SchedulePage;
  'nats-api.json#/$defs/scheduleRequest': types.ScheduleRequest;
  'nats-api.json#/$defs/schedulePauseRequest': types.SchedulePauseRequest;
  'nats-api.json#/$defs/scheduleRunRequest': types.ScheduleRunRequest;
  'nats-api.json#/$defs/scheduleNextRequest': types.ScheduleNextRequest;
  'nats-api.json#/$defs/scheduledTimes': types.ScheduledTimes;
  'nats-api.json#/$defs/error': types.NatsApiError;
  'notice.json': types.Notice;
  'operation.json': types.Operation;
  'outage.json': types.Outage;
  'progress.json': types.Progress;
  'run.json': types.Run;
  'run.json#/$defs/state': types.RunChild['state'];
  'run-plan.json': types.RunPlan;
  'run-answers.json#/$defs/run': types.ShownRun;
  'run-answers.json#/$defs/runPage': types.RunPage;
  'run-answers.json#/$defs/childPage': types.RunChildPage;
  'run-answers.json#/$defs/runRequest': types.RunRequest;
  'run-answers.json#/$defs/runsRequest': types.RunsRequest;
  'run-answers.json#/$defs/childrenRequest': types.RunChildrenRequest;
  'run-answers.json#/$defs/retryRequest': types.RunRetryRequest;
  'run-answers.json#/$defs/notice': types.RunNotice;
  'schedule.json': types.Schedule;
  'schedule.json#/$defs/name': string;
  [name: `read-answers.json#/$defs/${string}`]: unknown;
  'trust-end.json': types.TrustEnd;
  'trust-token.json': types.TrustToken;
  'trusted-certificate.json': types.TrustedCertificate;
  'names.json#/$defs/remoteName': string;
  'names.json#/$defs/projectName': string;
  'names.json#/$defs/instanceName': string;
  'names.json#/$defs/poolName': string;
  'names.json#/$defs/namesInArchive': object;
  'names.json#/$defs/backupName': string;
  'names.json#/$defs/endpoint': string;
  'names.json#/$defs/tags': types.Tags;
  'names.json#/$defs/compression': Compression;
  'names.json#/$defs/uuid': string;
  'names.json#/$defs/clientName': string;
  'names.json#/$defs/role': Role;
}

export type SchemaName = keyof Types;

const schemas = [
  names,
  requestor,
  jobBackup,
  jobRestore,
  jobDelete,
  jobPrune,
  keepRule,
  operation,
  outage,
  progress,
  notice,
  instanceRecord,
  natsApi,
  manifest,
  backupIndex,
  httpCreateBackup,
  httpPrune,
  httpRestoreBackup,
  httpSchedule,
  httpSchedulePause,
  httpSchedulesPost,
  schedule,
  httpUpdateBackup,
  httpCreateRun,
  httpRetryRun,
  run,
  runPlan,
  runAnswers,
  httpCertificatesPost,
  httpCertificatePut,
  trustedCertificate,
  trustEnd,
  trustToken,
  readAnswers,
  config,
];

function validators({ allErrors }: { allErrors: boolean }): Ajv2020 {
  const ajv = new Ajv2020({
    // Our schemas are validated in test/unit/schemas.test.ts; here it would cost every start 80 ms.
    validateSchema: false,
    allErrors,
    useDefaults: true,
    allowUnionTypes: true,
    verbose: true,
    keywords: ['x-secret'],
  });
  formats.default(ajv);
  const { validate: isDateTime } = formats.default.get('date-time') as { validate: (text: string) => boolean };
  // This library accepts leap seconds and `+01`, but JavaScript cannot parse them.
  ajv.addFormat('date-time', (text) => isDateTime(text) && !Number.isNaN(Date.parse(text)));
  for (const schema of schemas) ajv.addSchema(schema);
  return ajv;
}

/** For input: stops at the first fault. Error objects for a million faults cost seconds and hundreds of megabytes. */
const firstFault = validators({ allErrors: false });

/**
 * Returns `value` with its defaults filled in if it matches the schema.
 * Throws `code`, naming `what`, the first fault, and where it is; for the configuration, up to five faults.
 */
export function check<N extends SchemaName>(
  name: N,
  value: unknown,
  what: string,
  code: ErrorCode = 'bad-request',
): Types[N] {
  const faults = faultsOf(name, value);
  if (faults.length > 0) throw new LxstowError(code, `${what}: ${faults.join('; ')}`);
  return value as Types[N];
}

/** Describes the faults of `value`; empty if it matches. */
export function faultsOf(name: SchemaName, value: unknown): string[] {
  // For the configuration, which is trusted and read only once, collect all faults.
  const ajv = name === 'config.json' ? validators({ allErrors: true }) : firstFault;
  const validate = ajv.getSchema(name) as ValidateFunction | undefined;
  if (!validate) throw new Error(`no schema ${name}`);
  if (validate(value)) return [];
  const errors = validate.errors ?? [];
  // Drop errors that only say that an alternative failed, if others say why.
  const telling = errors.filter(({ keyword }) => !['propertyNames', 'anyOf', 'if', 'const'].includes(keyword));
  return [...new Set((telling.length > 0 ? telling : errors).map(inWords))].slice(0, 5);
}

function inWords(error: ErrorObject): string {
  const path = error.instancePath.slice(1).replaceAll('/', '.');
  const at = path ? `${path}: ` : '';
  const { description: described, 'x-secret': secret } = (error.parentSchema ?? {}) as {
    description?: string;
    'x-secret'?: boolean;
  };
  switch (error.keyword) {
    case 'additionalProperties':
      return `${at}unknown field ${JSON.stringify(error.params.additionalProperty)}`;
    case 'pattern': {
      const shown = secret ? 'it' : JSON.stringify(String(error.propertyName ?? error.data).slice(0, 80));
      return `${at}${shown} is not allowed${described ? ` (${described})` : ''}`;
    }
    case 'required':
      return `${at}${error.params.missingProperty} is missing`;
    case 'enum':
      return `${at}${shown(error.data)} is not one of ${(error.params.allowedValues as unknown[]).map((v) => JSON.stringify(v)).join(', ')}`;
    default:
      return `${at}${error.message ?? error.keyword}`;
  }
}

/** Formats a wrong value for a message; never a whole document. */
function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 80));
  return typeof value === 'object' && value !== null ? 'this' : String(value);
}
