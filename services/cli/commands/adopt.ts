/** `lxstow adopt`: lists, verifies and copies the backups in lxmin's bucket. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { Threads } from '../../archive/compression/threads.ts';
import { Catalog } from '../../backups/catalog.ts';
import { plural } from '../../contract/amounts.ts';
import { knownRemote, readText } from '../../contract/config.ts';
import { asLxstowError, type LxstowError } from '../../contract/errors.ts';
import { type Compression, type Config, check } from '../../contract/schemas.ts';
import { Leases } from '../../coordination/leases.ts';
import { Nudges } from '../../coordination/nudges.ts';
import { Reservations } from '../../coordination/reservations.ts';
import { FleetStore } from '../../fleet/fleetStore.ts';
import { Keeper } from '../../fleet/keeper.ts';
import { Intake, type IntakeTools } from '../../intake/intake.ts';
import { Adoption } from '../../lxmin/adoption.ts';
import { urlOf } from '../../lxmin/archive.ts';
import { isOf } from '../../lxmin/layout.ts';
import { type Found, type Sound, type Survey, takeSurvey } from '../../lxmin/survey.ts';
import { Bucket } from '../../nats/bucket/bucket.ts';
import { connectNats } from '../../nats/connection.ts';
import { verifySetUp } from '../../nats/setup.ts';
import { leasesBucket } from '../../nats/streams.ts';
import { OperationStore } from '../../operations/operationStore.ts';
import { retrying } from '../../storage/retrying.ts';
import { createS3Store } from '../../storage/s3/s3.ts';
import { createLogger } from '../../telemetry/logger.ts';
import { CliError, type Exit, exitOf, exits } from '../exit.ts';
import { type Format, print, size, time } from '../terminal/output.ts';
import { openProgress, type Progress } from '../terminal/progress.ts';

interface AdoptOptions {
  config: Config;
  env: NodeJS.ProcessEnv;
  stop: AbortSignal;
  dryRun: boolean;
  verify: boolean;
  bucket?: string;
  endpoint?: string;
  accessKey?: string;
  secretKeyFile?: string;
  region?: string;
  ca?: string;
  target?: string;
  project: string;
  compression?: Compression;
  quiet: boolean;
  format: Format;
}

const drawEveryMs = 100;
const shownForeign = 5;

/** A backup in the table. */
interface Line {
  found: Found;
  state: 'new' | 'sound' | 'adopted' | 'already adopted' | 'incomplete' | 'failed';
  as?: string;
  notes: string[];
  error?: LxstowError;
}

/** Lists, verifies or copies the backups, and prints the result of each. Returns the exit status. */
export async function adoptCommand(instances: string[], options: AdoptOptions): Promise<Exit> {
  const { config, stop, quiet, format, dryRun, verify } = options;
  const source = sourceOf(options);
  const remotes = Object.keys(config.remotes);
  const remote = knownRemote(options.target ?? config.gateway.defaultRemote, remotes);
  const project = check('names.json#/$defs/projectName', options.project, '--project');
  // Successes and failures are in the table, so log errors only.
  const log = createLogger({ ...config.log, level: config.log.level === 'debug' ? 'debug' : 'error' }, {});
  using progress = openProgress(quiet);
  const policy = {
    attempts: config.s3.attempts,
    onRetry: (call: string, error: Error) => progress.note(`${error.message}; trying again (${call})`),
  };
  using ours = createS3Store(config.s3);
  using theirs = createS3Store(source, { own: false });
  await using nats = await connectNats(config.nats, 'lxstow adopt', log);
  await verifySetUp(nats);
  using nudges = new Nudges(nats, remote);
  await using threads = new Threads({ gzipLibrary: config.gzip.library });
  const leases = new Bucket(nats, leasesBucket);
  const store = retrying(ours, policy);
  const tools: IntakeTools = {
    prefix: config.s3.prefix,
    name: `adopt-${hostname()}-${process.pid}-${randomBytes(3).toString('hex')}`,
    ...{ store, threads, cancels: nudges, log },
    operations: new OperationStore(nats, config.nats.operationsKeptHours),
    leases: new Leases(leases, config.worker.leaseTtlMs),
    reservations: new Reservations(leases),
    catalog: new Catalog(store, config.s3.prefix, log),
    keeper: new Keeper({ fleet: new FleetStore(nats), store, prefix: config.s3.prefix, log }),
    heartbeatMs: config.worker.heartbeatMs,
  };
  const from = { store: retrying(theirs, policy), endpoint: source.endpoint, bucket: source.bucket };
  const adoption = new Adoption({
    ...{ ...tools, from, intake: new Intake(tools) },
    patienceMs: 2 * config.worker.leaseTtlMs,
    idleTimeoutMs: source.idleTimeoutMs * (source.attempts + 1),
  });

  const survey = await takeSurvey({ ...tools, from, to: { remote, project }, remotes }, instances, stop);
  for (const each of instances) {
    if (!survey.backups.some((backup) => isOf(backup, each)))
      throw new CliError(exits.notFound, `there is no backup of ${each} in s3://${source.bucket}`);
  }
  sayForeign(survey, source, progress);
  const work = dryRun ? undefined : verify ? verifying(adoption) : adopting(adoption, options);
  const lines: Line[] = [];
  for (const found of survey.backups)
    lines.push(brief(found, verify) ?? (await move(found as Adoptable, work, progress, stop)));
  await tools.keeper.askToCompare();
  show(lines, source, format);
  stop.throwIfAborted();
  return statusOf(lines, dryRun);
}

/** lxmin's own variables name its bucket, so that its users need no options. */
function sourceOf({ config, env, ...given }: AdoptOptions): Config['s3'] {
  const { bucket, endpoint, region, ca, accessKey, secretKeyFile } = given;
  if (bucket === undefined)
    throw new CliError(exits.usage, "which bucket is lxmin's?", { hint: 'give --bucket NAME, or set LXMIN_BUCKET' });
  const secretKey = secretKeyFile ? readText(secretKeyFile, '--secret-key-file').trimEnd() : env.LXMIN_SECRET_KEY;
  if ((accessKey === undefined) !== (secretKey === undefined))
    throw new CliError(exits.usage, `${accessKey === undefined ? 'the access key' : 'the secret key'} is missing`, {
      hint: 'give both (--access-key and --secret-key-file, or LXMIN_ACCESS_KEY and LXMIN_SECRET_KEY), or neither',
    });
  const over = {
    bucket,
    ...(endpoint !== undefined && { endpoint }),
    ...(region !== undefined && { region }),
    ...(ca !== undefined && { ca }),
    ...(accessKey !== undefined && secretKey !== undefined && { accessKey, secretKey }),
  };
  return check('config.json', { ...config, s3: { ...config.s3, ...over } }, "lxmin's bucket").s3;
}

/** A backup that can be adopted, judging by its beginning. */
type Adoptable = Extract<Found, Sound>;

type Work = (
  backup: Sound,
  stop: AbortSignal,
  onBytes: (count: number) => void,
) => Promise<Pick<Line, 'state' | 'as' | 'notes'>>;

function verifying(adoption: Adoption): Work {
  return async (backup, stop, onBytes) => {
    await adoption.verify(backup, stop, onBytes);
    return { state: 'sound', notes: backup.notes };
  };
}

function adopting(adoption: Adoption, { compression, config }: AdoptOptions): Work {
  return async (backup, stop, onBytes) => {
    const way = compression ?? config.worker.compression;
    const { name, fresh, notes } = await adoption.adopt(backup, way, stop, onBytes);
    return { state: fresh ? 'adopted' : 'already adopted', as: name, notes: [...backup.notes, ...notes] };
  };
}

/** The line of a backup that needs no work; undefined for one that does. */
function brief(found: Found, verify: boolean): Line | undefined {
  switch (found.state) {
    case 'incomplete':
      return { found, state: 'incomplete', notes: [found.why] };
    case 'unreadable':
      return { found, state: 'failed', notes: [], error: found.error };
    case 'adopted':
      return verify ? undefined : { found, state: 'already adopted', as: found.as, notes: found.notes };
    case 'new':
      return undefined;
  }
}

/** Copies or verifies one backup, unless the command was stopped before. */
async function move(found: Adoptable, work: Work | undefined, progress: Progress, stop: AbortSignal): Promise<Line> {
  if (!work || stop.aborted) return { found, state: 'new', notes: found.notes };
  const label = `${found.instance}/${found.name}`;
  const total = found.archive.size;
  const begun = performance.now();
  let [done, drawn] = [0, begun];
  progress.show([{ label, state: 'reading', done, total }]);
  try {
    const line = await work(found, stop, (count) => {
      done += count;
      const now = performance.now();
      if (now - drawn < drawEveryMs) return;
      drawn = now;
      progress.show([{ label, state: 'reading', done, total, rate: Math.round((done * 1000) / (now - begun)) }]);
    });
    progress.show([{ label, state: line.state, ended: true }]);
    return { found, ...line };
  } catch (error) {
    progress.show([{ label, state: 'failed', ended: true }]);
    return { found, state: 'failed', notes: [], error: asLxstowError(error) };
  }
}

function sayForeign({ foreign }: Survey, { bucket }: Config['s3'], progress: Progress): void {
  if (foreign.length === 0) return;
  const shown = foreign.slice(0, shownForeign).map(({ key }) => key);
  const more = foreign.length > shown.length ? ', …' : '';
  progress.note(
    `ignored ${plural(foreign.length, 'object')} in s3://${bucket} that lxmin did not make: ${shown.join(', ')}${more}`,
  );
}

function show(lines: Line[], { bucket }: Config['s3'], format: Format): void {
  const rows = lines.map(({ found, state, as, notes, error }) => {
    const { instance, name, archive, profiles } = found;
    return [
      instance,
      name,
      archive ? time(archive.modified) : '-',
      archive ? size(archive.size) : '-',
      'optimized' in found ? (found.optimized ? 'yes' : 'no') : '-',
      profiles.map((profile) => profile.name).join(' ') || '-',
      [as ? `${state} as ${as}` : state, ...(error ? [error.message] : notes)].join(': '),
    ];
  });
  const raw = lines.map(({ found, state, as, notes, error }) => ({
    instance: found.instance,
    name: found.name,
    created: found.archive?.modified ?? null,
    size: found.archive?.size ?? null,
    optimized: 'optimized' in found ? found.optimized : null,
    profiles: found.profiles.map((profile) => profile.name),
    source: found.archive ? urlOf({ bucket }, found.archive) : null,
    ...(found.address && { target: found.address.remote, project: found.address.project }),
    state,
    ...(as !== undefined && { backup: as }),
    ...(notes.length > 0 && { notes }),
    ...(error && { error: error.message, code: error.code }),
  }));
  print(format, {
    heading: ['INSTANCE', 'BACKUP', 'CREATED (UTC)', 'SIZE', 'OPTIMIZED', 'PROFILES', 'STATE'],
    rows,
    raw,
    empty: `there are no backups of lxmin in s3://${bucket}`,
  });
}

/** The exit status of the failures if they all have the same one, otherwise 1. */
function statusOf(lines: Line[], dryRun: boolean): Exit {
  const reasons = new Set<Exit>();
  for (const { state, error } of lines) {
    if (error) reasons.add(error.code === 'cancelled' ? exits.failed : exitOf(error));
    else if (state === 'incomplete' && !dryRun) reasons.add(exits.failed);
  }
  const [reason, another] = reasons;
  return another === undefined ? (reason ?? exits.ok) : exits.failed;
}
