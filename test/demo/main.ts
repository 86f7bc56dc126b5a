// npm run demo: a container is backed up, destroyed, and brought back, on real parts that live only as long as this runs.
// npm run demo -- --size 1024 takes that many MiB of data.
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { openFolder } from '../lab/folder.ts';
import { type Lab, openLab } from '../lab/lab.ts';
import { type Answer, type Lxstow, startLxstow } from '../lab/lxstow.ts';
import { errorText, type Log } from '../lab/run.ts';
import { s3Titles } from '../lab/s3.ts';
import { startSimulator } from '../simulator/simulator.ts';
import { type Bucket, openBucket } from './bucket.ts';
import { differences, showFiles, sumUp } from './compare.ts';
import { type Host, realHost, simulatedHost } from './host.ts';
import * as screen from './screen.ts';

const instance = 'web';
const tags = 'os=busybox&purpose=demo';
const workers = 2;
const pollMs = 200;

interface Stage {
  host: Host;
  stow: Lxstow;
  bucket: Bucket;
  /** Where the parts keep what they have. */
  folders: string[];
}

const { values } = parseArgs({ options: { size: { type: 'string', default: '256' } } });
const sizeMiB = Number(values.size);
if (!(Number.isInteger(sizeMiB) && sizeMiB >= 1 && sizeMiB <= 2048)) {
  console.error('demo: --size takes 1 to 2048 (MiB)');
  process.exit(2);
}
process.once('SIGINT', () => {
  screen.failed('Interrupted: removing everything.');
  process.exit(130); // the lab removes itself when its process ends
});
const begun = performance.now();
try {
  const { real } = await demo();
  const what = real ? 'a real LXD' : 'a SIMULATED LXD';
  screen.title(
    `\nEverything held, on ${what}: ${screen.proved()} proofs in ${screen.seconds(performance.now() - begun)}.`,
  );
} catch (error) {
  screen.failed(
    error instanceof screen.Disproved ? `This did not hold: ${error.message}` : `demo: ${errorText(error)}`,
  );
  process.exitCode = 1;
}

async function demo(): Promise<{ real: boolean }> {
  screen.title('lxstow: a container to S3 and back');
  await using opened = new AsyncDisposableStack();
  const stage = await bringUp(opened);
  const { host } = stage;

  screen.step('A container');
  screen.command(await host.launch(instance, sizeMiB));
  const before = await host.fingerprint(instance);
  screen.say(`with files put into /data: ${sumUp(before)}`);
  screen.say('and some in /odd that a careless backup would lose:');
  showFiles(before);

  const backup = await backUp(stage);
  const backups = `/1.0/instances/${instance}/backups`;

  screen.step('List it, show it');
  const listed = await call(stage, 'GET', backups);
  for (const { name, created, size, compressed } of listed.body.metadata)
    screen.say(`${listed.status}  ${name}  ${created}  ${screen.mb(size)}  compressed=${compressed}`);
  const shown = await call(stage, 'GET', `${backups}/${backup}`);
  screen.say(`${shown.status}  tags: ${JSON.stringify(shown.body.metadata.tags)}`);
  screen.prove(
    'the list has the backup, and the backup has its tags',
    listed.body.metadata.length === 1 && new URLSearchParams(shown.body.metadata.tags).toString() === tags,
  );

  await lookIntoBucket(stage, before);

  screen.step('Destroy the container');
  screen.command(await host.remove(instance));
  const left = await host.look(instance);
  screen.command(left.command);
  screen.prove(`${host.name} has no instance any more`, left.lines.length === 0);

  screen.step('Restore it, and start it');
  const restoring = await call(stage, 'POST', `${backups}/${backup}`, { body: { start: true } });
  expectAnswer(restoring, 202);
  screen.say(`202  ${restoring.body.status}: ${restoring.body.operation}`);
  await follow(stage, restoring);

  screen.step('Is it the same?');
  const after = await host.fingerprint(instance);
  showFiles(after, before);
  const different = differences(before, after);
  screen.say(...different.slice(0, 10));
  screen.prove(
    `${after.size} files and folders compared (SHA-256, type, mode, owner, mtime, links): ${different.length} differences`,
    different.length === 0 && after.size === before.size,
  );
  const running = await host.look(instance);
  screen.command(running.command);
  screen.prove(
    `${host.exec ? 'it runs' : 'the simulator says that it runs'}: ${running.lines.join(' ')}`,
    running.lines.some((line) => line === `${instance},RUNNING`),
  );
  const ran = await host.exec?.(instance, ['cat', '/odd/owned']);
  if (ran) {
    screen.command(ran.command);
    screen.prove(`it answers: ${ran.output}`, ran.output === 'by 1234:5678');
  }

  screen.step('A restore never touches an instance that exists');
  const refused = await call(stage, 'POST', `${backups}/${backup}`);
  screen.say(`${refused.status}  ${refused.body.error}`);
  screen.prove('refused with 409', refused.status === 409 && refused.body.error_code === 409);

  screen.step('Delete the backup');
  const deleted = await call(stage, 'DELETE', `${backups}/${backup}`);
  screen.say(`${deleted.status}  ${deleted.body.status}`);
  screen.prove('deleted', deleted.status === 200);
  const [objects, uploads] = [await stage.bucket.objects(), await stage.bucket.openUploads()];
  screen.prove(
    `in the bucket: ${objects.length} objects, ${uploads} open uploads`,
    objects.length === 0 && uploads === 0,
  );

  screen.step('Clean up');
  await opened.disposeAsync();
  screen.prove(
    'nothing of all this is left',
    stage.folders.every((folder) => !existsSync(folder)),
  );
  return { real: host.exec !== undefined };
}

/** Starts all parts; they are removed with `opened`. */
async function bringUp(opened: AsyncDisposableStack): Promise<Stage> {
  screen.step('LXD, NATS and S3 of our own, a gateway and two workers');
  const since = performance.now();
  const log = (line: string) => screen.aside(line);
  const lab = opened.use(await openLab({ name: 'demo', log }));
  if (!lab.nats || !lab.s3) throw new Error('the lab has no NATS or no S3');
  const host = await hostOf(lab, opened, log);
  const stow = opened.use(
    await startLxstow({ name: 'demo', log, natsUrl: lab.nats.url, s3: lab.s3, socket: host.socket, workers }),
  );
  const folder = opened.use(await openFolder('demo-client', log));
  const file = (name: string) => join(folder.path, name);
  await writeFile(file('client.crt'), stow.client.cert);
  await writeFile(file('client.key'), stow.client.key, { mode: 0o600 });
  const server = join(dirname(stow.configFile), 'state', 'server.crt');
  await writeFile(
    file('curlrc'),
    `silent\ncacert = "${server}"\ncert = "${file('client.crt')}"\nkey = "${file('client.key')}"\n`,
  );
  screen.say(`The store is ${s3Titles[lab.s3.kind]}.`);
  screen.say(`Up after ${screen.seconds(performance.now() - since)}. To type along in another terminal:`);
  screen.say(`  C=${file('curlrc')} S=${stow.url}`);
  screen.say(`  export LXD_DIR=${dirname(host.socket)}`);
  const folders = [folder.path, dirname(stow.configFile), lab.nats.dir, lab.s3.dir, dirname(host.socket)];
  return { host, stow, bucket: openBucket(lab.s3), folders };
}

async function hostOf({ lxd, lxdUnavailable }: Lab, opened: AsyncDisposableStack, log: Log): Promise<Host> {
  if (lxd) return realHost(lxd);
  screen.warn(
    'NO REAL LXD on this machine, so what follows is backed up from a simulator of its API.',
    `The reason: ${lxdUnavailable}.`,
    'Gateway, NATS, workers, S3 and every byte of the archive are real.',
  );
  return simulatedHost(opened.use(await startSimulator({ log })));
}

/** Backs the container up; returns the backup's name. */
async function backUp(stage: Stage): Promise<string> {
  screen.step('Back it up');
  const accepted = await call(stage, 'POST', `/1.0/instances/${instance}/backups`, {
    headers: { 'x-amz-tagging': tags },
  });
  expectAnswer(accepted, 202);
  const { name } = accepted.body.metadata;
  screen.say(`202  ${accepted.body.status}: ${accepted.headers.location}`);
  screen.say(`     ${name}`);
  await follow(stage, accepted, `/1.0/instances/${instance}/backups/${name}`);
  return name;
}

async function lookIntoBucket({ bucket, host }: Stage, before: Map<string, string>): Promise<void> {
  screen.step('What is in the bucket');
  const objects = await bucket.objects();
  screen.table(objects.map(({ key, size }) => [size, key]));
  const archive = objects.find(({ key }) => key.endsWith('.tar.gz'));
  screen.prove(
    'an archive and its manifest, no open upload',
    objects.length === 2 && archive !== undefined && (await bucket.openUploads()) === 0,
  );
  screen.say('Straight from the bucket, without lxstow:');
  screen.command(`(S3's GetObject of ${archive?.key}) | tar tzf - | wc -l`);
  const names = await bucket.tarEntries(archive?.key ?? '');
  const inRootfs = names.filter((name) => name.includes('/rootfs/')).length;
  screen.say(`${names.length} entries, ${inRootfs} below rootfs/, beginning with ${names[0]}`);
  screen.prove(`tar reads all ${before.size} files and folders of ${host.name}'s archive`, inRootfs >= before.size);
}

/** Shows an operation, and the backup that it makes, until it has ended well. */
async function follow(stage: Stage, accepted: Answer, backup?: string): Promise<void> {
  const { stow, host } = stage;
  const path = accepted.body.operation;
  show(host, 'GET', path);
  if (backup) show(host, 'GET', backup);
  let state = '';
  for (;;) {
    const [{ body }, seen] = await Promise.all([
      stow.request('GET', path),
      backup ? stow.request('GET', inProject(host, backup)) : undefined,
    ]);
    const { status, status_code, err, metadata, created_at, updated_at } = body.metadata;
    const { stage: at = status.toLowerCase(), bytes_done: done = 0, bytes_total: total = 0 } = metadata ?? {};
    const found = seen?.body.metadata?.state;
    if (found && found !== state && metadata?.stage) {
      state = found;
      screen.say(`${seen?.status}  the backup is ${seen?.body.metadata.status}, state=${found}`);
    }
    if (status_code < 200) {
      screen.progress({ stage: at, done, total, perSecond: metadata?.bytes_per_second ?? 0 });
      await delay(pollMs);
      continue;
    }
    const ms = Date.parse(updated_at) - Date.parse(created_at);
    screen.prove(
      status_code === 200
        ? `${status} in ${screen.seconds(ms)}: ${screen.mb(done)}, ${screen.mb((done * 1000) / ms)}/s from request to end`
        : `${status}: ${err}`,
      status_code === 200,
    );
    return;
  }
}

/** Shows the request as a curl line, and makes it. */
function call(
  { stow, host }: Stage,
  method: string,
  path: string,
  options: { headers?: Record<string, string>; body?: object } = {},
): Promise<Answer> {
  show(host, method, path, options);
  return stow.request(method, inProject(host, path), options);
}

function show(
  host: Host,
  method: string,
  path: string,
  { headers = {}, body }: { headers?: Record<string, string>; body?: object } = {},
): void {
  const url = path.startsWith('/1.0/operations/') ? path : inProject(host, path);
  screen.command(
    [
      'curl -K $C',
      ...(method === 'GET' ? [] : [`-X ${method}`]),
      ...Object.entries(headers).map(([name, value]) => `-H '${name}: ${value}'`),
      ...(body ? [`-d '${JSON.stringify(body)}'`] : []),
      url.includes('?') ? `"$S${url}"` : `$S${url}`,
    ].join(' '),
  );
}

function inProject({ project }: Host, path: string): string {
  return project === 'default' ? path : `${path}?project=${project}`;
}

function expectAnswer(answer: Answer, status: number): void {
  if (answer.status !== status) throw new Error(`the gateway answered ${answer.status}: ${answer.body.error}`);
}
