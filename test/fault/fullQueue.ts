/** A queue that is full when something goes away: four large backups at work, and many small ones behind them. */
import assert from 'node:assert/strict';
import type { Finding } from '../../services/janitor/janitor.ts';
import { openStack, type Stack, type StackOptions, succeeded, until } from '../integration/stack.ts';
import { type Answer, lxstow } from '../lab/lxstow.ts';
import type { Daemon } from '../lab/processes.ts';
import { assertClean, linesOf, reaches, readManifest } from './workers.ts';

const mib = 1024 * 1024;
/** The smallest that there is (services/archive/cutParts.ts). */
const partBytes = 16 * mib;
const slots = 4;
const partsInFlight = 2;
const largeMiB = 64;
/** Each small instance is backed up twice. */
const backupsEach = 2;
/** Not only parts: headers, manifests, requests that were answered and not heard. */
const slackBytes = 4 * mib;

export type Away = 's3' | 'nats' | 'lxd';

interface Jobs {
  running: Answer[];
  queued: Answer[];
}

export interface FullQueue extends AsyncDisposable {
  readonly stack: Stack;
  /** Begins four large backups and `queued` small ones; resolves when the four upload. */
  begin(): Promise<Jobs>;
  /** What the gateway's metrics say to be away, one string for each series; undefined when it does not answer, or NATS does not answer it. */
  away(): Promise<string[] | undefined>;
  /** Fails unless all end in Success in their first attempt, little was sent twice, and the janitor finds nothing. Returns what was sent twice, in bytes. */
  assertWell(jobs: Jobs): Promise<number>;
  /** Waits until all have ended, whoever is away meanwhile; fails unless in Success. */
  assertSucceeded(answers: Answer[]): Promise<void>;
  /** Fails unless LXD, the store and NATS have nothing that the janitor would remove. Leases may take two minutes to go by themselves. */
  assertNothingLeft(): Promise<void>;
  /**
   * Runs the janitor as users have it until LXD has no copies any more. Fails if it had to remove more than copies that LXD, or a record that NATS, could not
   * remove when their operations ended.
   */
  tidyUp(): Promise<void>;
  /** `lxstow dead-letters retry --all`, and waits until all that came of it are a Success; returns what it printed. */
  sendAgain(): Promise<string>;
  kill(part: Away): Promise<void>;
  start(part: Away): Promise<void>;
}

interface FullQueueOptions extends StackOptions {
  /** Small backups; 50 unless told. */
  queued?: number;
}

export async function openFullQueue(
  name: string,
  { queued = 50, config = {}, ...options }: FullQueueOptions = {},
): Promise<FullQueue> {
  await using opening = new AsyncDisposableStack();
  const worker = { slots, partsInFlight, bandwidth: '16MiB', leaseTtlMs: 6000, heartbeatMs: 2000, ...config.worker };
  const s3 = { attempts: 2, idleTimeoutMs: 5000, ...config.s3 };
  const stack = opening.use(await openStack(name, { ...options, config: { ...config, worker, s3 } }));
  const large = Array.from({ length: slots }, (_, index) => `large${index}`);
  const small = Array.from({ length: Math.ceil(queued / backupsEach) }, (_, index) => `small${index}`);
  for (const instance of large) await stack.launch(instance, { dataMiB: largeMiB });
  for (const instance of small) await createStopped(stack, instance);
  const owned = opening.move();

  const beginOne = async (instance: string) => {
    const path = `/1.0/instances/${instance}/backups?compression=none`;
    const answer = await stack.stow.request('POST', path);
    assert.equal(answer.status, 202, answer.text);
    return answer;
  };
  const assertSucceeded = async (answers: Answer[]) => {
    for (const answer of answers) await ended(stack, answer);
    for (const answer of answers) await succeeded(stack.stow, answer);
  };
  const assertNothingLeft = () => assertNothingFound(stack, options.nats?.environment?.('worker'));
  let sentBefore = 0;
  return {
    stack,
    async begin() {
      sentBefore = await sentToS3(stack);
      const running = await Promise.all(large.map(beginOne));
      const behind: Answer[] = [];
      for (let index = 0; index < queued; index++) behind.push(await beginOne(small[index % small.length] ?? ''));
      for (const answer of running) await reaches(stack, answer, 'uploading', 20 * mib);
      return { running, queued: behind };
    },
    away: () => awayNow(stack),
    async assertWell({ running, queued: behind }) {
      const all = [...running, ...behind];
      await assertSucceeded(all);
      const log = (await Promise.all(stack.stow.workers.map((_, index) => stack.stow.logOf(index)))).join('\n');
      for (const answer of all) {
        const begun = [...linesOf(log, answer).matchAll(/"attempt":(\d+)/g)].map(([, attempt]) => attempt);
        assert.deepEqual([...new Set(begun)], ['1'], linesOf(log, answer));
      }
      let stored = 0;
      for (const answer of all) {
        const [, instance = ''] = /instances\/([^/?]+)/.exec(answer.body.metadata.resources.instances[0]) ?? [];
        stored += (await readManifest(stack, instance, answer.body.metadata.name)).archive.size;
      }
      const twice = (await sentToS3(stack)) - sentBefore - stored;
      await assertNothingLeft();
      assert.ok(twice <= slots * partsInFlight * partBytes + slackBytes, `${twice} bytes were sent twice`);
      return twice;
    },
    assertSucceeded,
    assertNothingLeft,
    tidyUp: () => tidyUp(stack),
    sendAgain: () => sendAgain(stack, options.nats?.environment?.('admin')),
    kill: (part) => partOf(stack, part).kill(),
    start: (part) => partOf(stack, part).start(),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** What the gateway's metrics say is away; undefined while NATS is. */
async function awayNow({ stow }: Stack): Promise<string[] | undefined> {
  const page = await fetch(`${stow.healthUrl.gateway}/metrics`).then(
    (answer) => answer.text(),
    () => '',
  );
  if (!/^lxstow_nats_up 1$/m.test(page)) return undefined;
  return [...page.matchAll(/^lxstow_outage_seconds\{(.*)\} /gm)].map(([, labels = '']) => labels);
}

async function assertNothingFound(stack: Stack, variables: NodeJS.ProcessEnv = {}): Promise<void> {
  await assertClean(stack);
  const env = { LXSTOW_WORKER_JANITOR_GRACE_HOURS: '0', ...variables };
  const command = ['--config', stack.stow.configFile, 'janitor', '--dry-run', '--format', 'json'];
  const left = async () => JSON.parse(await lxstow(command, env)) as Finding[];
  // A NATS that was killed may have forgotten to end these. They need no janitor: workers remove them (forgottenLeases.test.ts).
  const isForgotten = ({ kind }: Finding) => kind === 'lease' || kind === 'claim';
  assert.deepEqual(
    (await left()).filter((finding) => !isForgotten(finding)),
    [],
  );
  await until(left, (findings) => findings.length === 0);
}

async function tidyUp(stack: Stack): Promise<void> {
  const found: Finding[] = [];
  const left = () =>
    stack.assertNothingLeft().then(
      () => undefined,
      (error: Error) => error.message,
    );
  await until(
    async () => {
      const command = ['--config', stack.stow.configFile, 'janitor', '--format', 'json'];
      const removed = JSON.parse(await lxstow(command)) as Finding[];
      found.push(...removed);
      return { removed, left: await left() };
    },
    (looked) => looked.removed.length === 0 && looked.left === undefined,
  );
  const expected = ['lxd-backup', 'lease', 'claim', 'reservation', 'checkpoint'];
  const others = found.filter(({ kind, action }) => !expected.includes(kind) || action !== 'removed');
  assert.deepEqual(others, []);
}

async function sendAgain({ stow }: Stack, variables: NodeJS.ProcessEnv = {}): Promise<string> {
  const printed = await lxstow(['--config', stow.configFile, 'dead-letters', 'retry', '--all'], variables);
  for (const [, id] of printed.matchAll(/as operation (\S+)$/gm)) {
    const shown = await stow.request('GET', `/1.0/operations/${id}/wait`);
    assert.equal(shown.body.metadata.status, 'Success', shown.text);
  }
  return printed;
}

function partOf({ lab, nats, s3 }: Stack, part: Away): Daemon {
  const daemon = { lxd: lab.lxd, nats, s3 }[part];
  assert.ok(daemon);
  return daemon;
}

/** Not started: 25 of them would take a while. */
async function createStopped({ lab, simulator }: Stack, instance: string): Promise<void> {
  if (lab.lxd) await lab.lxd.lxc(['init', 'bb', instance, '--config', 'security.privileged=true']);
  else await simulator?.createInstance(instance);
}

/** The longest that anything here takes once all is back. */
const endMs = 900_000;

async function ended(stack: Stack, answer: Answer): Promise<void> {
  const over = performance.now() + endMs;
  for (;;) {
    const shown = await stack.stow.request('GET', answer.body.operation).catch(() => undefined);
    if (shown?.status === 200 && shown.body.metadata.status_code >= 200) return;
    assert.ok(performance.now() < over, `${answer.body.operation} has not ended: ${shown?.text}`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

/** What the worker has sent to S3 since it was started, in bytes. */
async function sentToS3(stack: Stack): Promise<number> {
  const page = await (await fetch(`${stack.stow.healthUrl.worker}/metrics`)).text();
  return Number(/^lxstow_sent_bytes_total\{peer="s3"\} (\S+)$/m.exec(page)?.[1] ?? 0);
}
