/** A stack with a worker whose S3 can be held, a receiver of notices, and what tests of schedules say again and again. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadConfig } from '../../services/contract/config.ts';
import type { ShownRun, ShownSchedule } from '../../services/contract/schemas.ts';
import { connectNats, type Nats } from '../../services/nats/connection.ts';
import { ScheduleStore } from '../../services/schedules/scheduleStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { fingerprintOf } from '../../services/trust/certificates.ts';
import { type ScriptedS3, scriptedS3 } from '../fault/scriptedS3.ts';
import { type Certificate, makeCertificate } from '../lab/certificates.ts';
import { type Answer, lxstow } from '../lab/lxstow.ts';
import { type Receiver, startReceiver } from '../lab/receiver.ts';
import { attempt } from '../lab/run.ts';
import { openStack, type Stack, until } from './stack.ts';

export const cliFile = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));
export const dayMs = 86_400_000;

export interface ScheduleStack extends AsyncDisposable {
  readonly stack: Stack;
  readonly config: Record<string, object>;
  readonly nats: Nats;
  readonly schedules: ScheduleStore;
  readonly s3: ScriptedS3;
  readonly receiver: Receiver;
  /** Of the command line's user. */
  readonly home: string;
  /** Runs the command line, which must succeed. */
  cli(...args: string[]): Promise<string>;
  ask(method: string, path: string, body?: object, certificate?: Certificate): Promise<Answer>;
  create(name: string, definition: object): Promise<void>;
  show(name: string): Promise<ShownSchedule>;
  /** As if nothing had looked at it since. */
  turnBack(name: string, ms: number): Promise<void>;
  /** The run of the schedule's last slot, when it has ended. */
  ended(name: string): Promise<ShownRun>;
  endOf(run: string): Promise<ShownRun>;
  /** How many the instance has. */
  backups(instance: string): Promise<number>;
  /** Changes the configuration of an instance. */
  set(instance: string, config: Record<string, string>): Promise<unknown>;
  /** One that is trusted. */
  client(role: string, projects?: string[]): Promise<{ certificate: Certificate; fingerprint: string }>;
}

/** With the instances s1 and s2. */
export async function openScheduleStack(name: string): Promise<ScheduleStack> {
  await using opening = new AsyncDisposableStack();
  const home = await mkdtemp(join(tmpdir(), 'lxstow-schedules-'));
  opening.defer(() => rm(home, { recursive: true, force: true }));
  const receiver = opening.use(await startReceiver());
  const config = {
    worker: { compression: 'none', graceMs: 0, inventoryEverySeconds: 2, leaseTtlMs: 4000, heartbeatMs: 1000 },
    notify: { endpoints: [`${receiver.url}/all`], allowed: [`${receiver.url}/ping`] },
  };
  const stack = opening.use(await openStack(name, { config, workers: 0 }));
  const s3 = opening.use(await scriptedS3(stack.s3.endpoint));
  await stack.stow.addWorker({ LXSTOW_S3_ENDPOINT: s3.endpoint });
  const { nats: settings } = loadConfig({ file: stack.stow.configFile, env: {} });
  const nats = opening.use(await connectNats(settings, 'test', createLogger({ level: 'error', format: 'text' }, {})));
  const schedules = new ScheduleStore(nats);
  for (const instance of ['s1', 's2']) await stack.launch(instance);
  const { stow } = stack;

  const cli: ScheduleStack['cli'] = async (...args) => {
    const env = { ...process.env, XDG_CONFIG_HOME: home, TZ: 'Europe/Berlin' };
    const { status, stdout, stderr } = await attempt(process.execPath, [cliFile, ...args], { env });
    assert.equal(status, 0, `${args.join(' ')}\n${stdout}${stderr}`);
    return stdout.toString();
  };
  await cli('remote', 'add', 'stow', (await lxstow(['-c', stow.configFile, 'trust', 'token', 'tester'])).trim());

  const ask: ScheduleStack['ask'] = (method, path, body, certificate) =>
    stow.request(method, `/1.0/schedules${path}`, { ...(body && { body }), ...(certificate && { certificate }) });
  const show: ScheduleStack['show'] = async (schedule) => (await ask('GET', `/${schedule}`)).body.metadata;
  const endOf: ScheduleStack['endOf'] = async (run) => {
    await stow.request('GET', `/1.0/operations/${run}/wait?timeout=120`);
    return (await stow.request('GET', `/1.0/runs/${run}`)).body.metadata;
  };
  const owned = opening.move();
  return {
    ...{ stack, config, nats, schedules, s3, receiver, home, cli, ask, show, endOf },
    async create(schedule, definition) {
      const answer = await ask('POST', '', { name: schedule, definition });
      assert.equal(answer.status, 201, answer.text);
    },
    async turnBack(schedule, ms) {
      const since = new Date(Date.now() - ms).toISOString();
      // The scheduler may change it at the same moment.
      const turn = async () => {
        const found = await schedules.find(schedule);
        assert.ok(found);
        return schedules.update({ ...found.schedule, since }, found.revision);
      };
      await until(turn, (revision) => revision !== undefined);
    },
    async ended(schedule) {
      const { last } = await until(
        () => show(schedule),
        (shown) => shown.last !== undefined,
      );
      return endOf(last?.run ?? '');
    },
    backups: async (instance) => (await stow.request('GET', `/1.0/instances/${instance}/backups`)).body.metadata.length,
    set: (instance, changed) =>
      stack.lxd.call({
        ...{ method: 'PATCH', path: `/1.0/instances/${instance}`, body: { config: changed } },
        signal: AbortSignal.timeout(60_000),
      }),
    async client(role, projects) {
      const certificate = await makeCertificate({ commonName: role });
      const body = {
        ...{ type: 'client', name: role, role, certificate: certificate.cert.replaceAll(/-----.*-----|\s/g, '') },
        ...(projects && { restricted: true, projects }),
      };
      assert.equal((await stow.request('POST', '/1.0/certificates', { body })).status, 201);
      return { certificate, fingerprint: fingerprintOf(certificate.cert) };
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
