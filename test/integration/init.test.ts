/** `lxstow init`, typed as a user does, on a machine with LXD, an S3 store and nothing of lxstow. */
import assert from 'node:assert/strict';
import { mkdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { findLxd } from '../lab/findLxd.ts';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { type LabLxd, startLxd } from '../lab/lxd.ts';
import { type Machine, openMachine } from '../lab/machine.ts';
import { blocksOf, type TypedPage, typePage } from '../lab/page.ts';
import { findMinio, findNatsServer, findVersityGw } from '../lab/parts.ts';
import { answers, startDaemon } from '../lab/processes.ts';
import { run } from '../lab/run.ts';
import { onTerminal, openTerminal } from '../lab/terminal.ts';
import { until } from './stack.ts';

const quiet = () => undefined;
const found = process.env.LXSTOW_LAB_LXD_SOCKET
  ? { available: false, reason: 'it has an LXD of its own' }
  : await findLxd(quiet);
const skip = found.available ? false : found.reason;

const others = (await run('unshare', ['--user', '--map-user=54321', 'true']).catch(() => undefined)) !== undefined;
const versityGw = await findVersityGw(quiet).catch(() => undefined);

const endpoint = 'http://127.0.0.1:9000';
const keys = 'LXSTOW_S3_ACCESS_KEY=lxstow LXSTOW_S3_SECRET_KEY=change-me-now';
const wrongFolders: [answer: string, said: RegExp][] = [
  ['/etc/hostname', /\/etc\/hostname is not a folder[\s\S]*Try again/],
  ['/etc/hostname/backups', /\/etc\/hostname is not a folder[\s\S]*Try again/],
  ['/proc/backups', /nothing can be created in \/proc\n[\s\S]*Try again/],
  ['/var/lib/full/backups', /there is no room in \/var\/lib\/full\/backups\n.*Make room[\s\S]*Try again/],
  ['/var/lib/cd/backups', /\/var\/lib\/cd\/backups is on a disk that is mounted read-only[\s\S]*Try again/],
];
/** Each answer that is wrong, what is said to it, and at last the right one. */
const conversation: [answer: string, said?: RegExp][] = [
  ['backups', /backups is neither a URL nor an absolute path: give \/backups/],
  ['ftp://nas/backups', /ftp:\/\/nas\/backups: give a folder, or the https:\/\/ URL of an S3 server/],
  ['s3://bucket', /give the URL of the S3 server/],
  ['https://key:secret@s3.example.net', /do not put keys into the URL/],
  ['/nowhere/backups', versityGw ? /\/nowhere does not exist[\s\S]*Try again/ : /no versitygw/],
  ...(versityGw ? wrongFolders : []),
  ['http://127.0.0.1:9', undefined],
  ['Bucket!', /"Bucket!" cannot be a bucket's name/],
  ['lxstow'],
  ['', /a key is needed/],
  ['lxstow'],
  ['wrong', /S3 at http:\/\/127\.0\.0\.1:9 cannot be reached[\s\S]*Try again/],
  [endpoint],
  ['lxstow'],
  ['lxstow'],
  ['wrong', /→ Set s3\.secretKey to the secret of s3\.accessKey\.[\s\S]*Try again/],
  [endpoint],
  ['lxstow'],
  ['lxstow'],
  ['change-me-now', /tried, and allowed: put, get/],
  ['25:00', /"25:00" is not a time of day/],
  ['2:30'],
  ['some', /"some" is not a number of nights/],
  ['7'],
  ['c9', /there is no instance c9; there are: c1/],
  ['c1'],
];

/** Instead of systemd: starts and stops what the unit says. */
const systemctl = `echo "$@" >>~/systemctl.log
unit=/etc/systemd/system/lxstow-standalone.service
case "$1" in
  restart) { $(sed -n 's/^ExecStart=//p' $unit) >~/standalone.log 2>&1 & } ; echo $! >~/unit.pid ;;
  disable) kill "$(cat ~/unit.pid)"; while grep -qs . "/proc/$(cat ~/unit.pid)/cmdline"; do sleep 0.1; done ;;
esac`;

describe('lxstow init', { timeout: 1_800_000, skip }, () => {
  let folder: LabFolder;
  let machine: Machine;
  let lxd: LabLxd;
  let shell: TypedPage;
  before(async () => {
    folder = await openFolder('init', quiet);
    machine = await openMachine(folder);
    lxd = await startLxd({ name: 'init', log: quiet });
    await lxd.launch('c1', { dataMiB: 1 });
    await mkdir(join(folder.path, 'bin'));
    await symlink(await findNatsServer(quiet), join(folder.path, 'bin', 'nats-server'));
    if (versityGw) await symlink(versityGw, join(folder.path, 'bin', 'versitygw'));
    const [enter = '', ...there] = machine.enter;
    await startDaemon({
      command: enter,
      args: [...there, await findMinio(quiet), 'server', join(folder.path, 'minio'), '--address', '127.0.0.1:9000'],
      folder,
      env: { MINIO_ROOT_USER: 'lxstow', MINIO_ROOT_PASSWORD: 'change-me-now' },
      ready: answers(() => run(enter, [...there, 'curl', '-sf', `${endpoint}/minio/health/ready`])),
    });
    shell = await typePage(undefined, {
      folder,
      enter: machine.enter,
      env: { LXD_DIR: lxd.dir },
      commands: { systemctl },
    });
  });
  after(async () => {
    await lxd?.[Symbol.asyncDispose]();
    await folder?.[Symbol.asyncDispose]();
  });

  /** Types a line; it must succeed. */
  const type = async (line: string, env: NodeJS.ProcessEnv = {}) => {
    const { status, stdout, stderr } = await shell.type(line, env);
    assert.equal(status, 0, `${line}\n${stdout}${stderr}`);
    return stdout;
  };
  const page = '/etc/lxstow/recovery.md';

  it('asks, says what is wrong with an answer, and asks again; then everything works', async () => {
    await type('cd /var/lib; mkdir full cd; mount -t tmpfs -o size=64k none full; mount -t tmpfs -o ro none cd');
    const input = conversation.map(([answer]) => answer).join('\n');
    const said = await type(`printf '%s\\n' '${input.replaceAll('\n', "' '")}' | (umask 0; lxstow init)`);
    let from = 0;
    for (const [answer, reason] of conversation) {
      if (!reason) continue;
      const at = said.slice(from).search(reason);
      assert.ok(at >= 0, `behind ${JSON.stringify(answer)} there is no ${reason} in\n${said}`);
      from += at;
    }
    assert.match(said, /^(LXD|Incus) \S+ at \S+unix\.socket: 1 instance; storage pools: .*bt \(btrfs, .* free\)/m);
    assert.match(said, /c1 +backup_\S+ +Success/);
    assert.match(said, /systemd does not run lxstow here/);
    assert.doesNotMatch(said, /change-me-now/);
    assert.equal(await type(`stat -c %a /etc/lxstow /etc/lxstow/lxstow.yaml ${page}`), '755\n600\n600\n');
    const next = JSON.parse(await type('lxstow schedule show nightly --format json'));
    assert.deepEqual([next.definition.cron, next.definition.keep], ['30 2 * * *', { keep_daily: 7 }]);
    await lxd.lxc(['delete', '--force', 'c1']);
    await type('lxstow restore c1 latest --start');
    assert.match(await lxd.lxc(['list', '--format', 'csv', '--columns', 'ns']), /^c1,RUNNING/m);
    assert.match(await type('lxstow doctor || true'), / lxd +storage pools: [\s\S]* 0 problems/);
  });

  it('repeated, it changes what it is told to, and nothing else', async () => {
    const before = await type('cat /etc/lxstow/lxstow.yaml; cat /var/lib/lxstow/standalone.pid');
    const said = await type('lxstow init --yes');
    assert.match(
      said,
      /is unchanged\nlxstow runs already\nthe gateway trusts this user; its name in commands is stow:/,
    );
    assert.doesNotMatch(said, /backup_/);
    assert.equal(await type('cat /etc/lxstow/lxstow.yaml; cat /var/lib/lxstow/standalone.pid'), before);
    await type('lxstow init --yes --nightly 04:15');
    const { definition } = JSON.parse(await type('lxstow schedule show nightly --format json'));
    assert.deepEqual([definition.cron, definition.keep], ['15 4 * * *', { keep_daily: 7 }]);
    // A schedule that deletes nothing gets no rule, unless a number of nights is given.
    const { keep: _, ...all } = definition;
    await type(`printf '%s' '${JSON.stringify(all)}' | lxstow schedule edit nightly`);
    for (const [options, cron, keep] of [
      ['--nightly 05:00', '0 5 * * *', undefined],
      ['--keep-daily 7', '0 5 * * *', { keep_daily: 7 }],
    ] as const) {
      await type(`lxstow init --yes ${options}`);
      const { definition: changed } = JSON.parse(await type('lxstow schedule show nightly --format json'));
      assert.deepEqual([changed.cron, changed.keep], [cron, keep]);
    }
    const answered = (nightly: string) => type(`printf '%s\\n' '' '' '' '${nightly}' '' | lxstow init`);
    assert.match(await answered('no'), /the schedule nightly is deleted/);
    await type('! lxstow schedule show nightly');
    await type('lxstow init --yes --nightly 04:15 --keep-daily 7');
    // What a person adds to the file stays.
    await type("printf 'log:\\n  level: debug # while we look\\n' >>/etc/lxstow/lxstow.yaml");
    await type(`${keys} lxstow init --yes --store ${endpoint}/other`);
    const config = await type('cat /etc/lxstow/lxstow.yaml');
    assert.match(config, /level: debug # while we look/);
    assert.match(config, /bucket: other/);
    assert.match(config, /^# Where backups go\..*\ns3:\n {2}bucket: other$/m);
    assert.match(config, /^# The API/m);
    await type(`lxstow init --yes --store ${endpoint}/lxstow`);
    assert.match(await type('lxstow list c1'), /backup_/);
  });

  it('gives the password of its NATS to no other server', async () => {
    const strange = join(folder.path, 'strange.mjs');
    const heard = join(folder.path, 'heard');
    await writeFile(
      strange,
      `import { appendFileSync, writeFileSync } from 'node:fs';
      import { createServer } from 'node:http';
      import net from 'node:net';
      for (const port of [8081, 8082]) createServer((_, answer) => answer.end()).listen(port, '127.0.0.1');
      net.createServer((socket) => {
        socket.write('INFO {"server_name":"x","version":"2.15.0","max_payload":1000}\\r\\n');
        socket.on('data', (data) => appendFileSync('${heard}', data)).on('error', () => undefined);
      }).listen(4222, '127.0.0.1', () => writeFileSync('${heard}', ''));`,
    );
    const state = '/var/lib/lxstow';
    // As after kill -9: the address stays. The strange server's ports answer as if lxstow were ready.
    await type(
      `pid=$(cat ${state}/standalone.pid); kill $pid; while grep -qs . /proc/$pid/cmdline; do sleep 0.1; done`,
    );
    await type(`printf nats://127.0.0.1:4222 >${state}/nats/url`);
    await type(
      `exec '${process.execPath}' '${strange}' >/dev/null 2>&1 & echo $! >~/strange.pid; until [ -e '${heard}' ]; do sleep 0.1; done`,
    );
    const { status, stdout, stderr } = await shell.type('lxstow init --yes');
    await type('pid=$(cat ~/strange.pid); kill $pid; while grep -qs . /proc/$pid/cmdline; do sleep 0.1; done');
    assert.equal(status, 78, stdout + stderr);
    assert.match(stderr, /a NATS server \(2\.15\.0\) that is not standalone's own listens on port 4222/);
    assert.equal(await readFile(heard, 'utf8'), '');
    assert.match(await type('lxstow init --yes'), /starting lxstow in the background/);
  });

  it('does not touch a configuration that it has not written, and says what an option lacks', async () => {
    const refused = async (line: string, status: number, reason: RegExp) => {
      const { status: was, stdout, stderr } = await shell.type(line);
      assert.deepEqual([was, reason.test(stderr)], [status, true], stdout + stderr);
    };
    await type('mkdir -p ~/mine');
    for (const s3 of ['{ accessKey: a, secretKey: b }', '{ endpoint: https://s3.example.net, bucket: prod }']) {
      await type(`echo 's3: ${s3}' >~/mine/lxstow.yaml`);
      const init = 'lxstow -c ~/mine/lxstow.yaml init --yes';
      await refused(init, 73, /has a store already, and was not written by `lxstow init`: it was not touched/);
    }
    const elsewhere = 'lxstow -c ~/other/lxstow.yaml init --yes';
    await refused(`${elsewhere} --store ${endpoint}`, 64, /no answer to “Access key”: give --access-key-file/);
    await refused(`${keys} ${elsewhere} --store ${endpoint} --nightly 24:00`, 64, /--nightly: "24:00" is not a time/);
    await refused(`${elsewhere} --store ftp://x`, 64, /--store: ftp:\/\/x: give a folder/);
    const [missing, here] = lxd.engine === 'incus6' ? ['lxd', 'Incus'] : ['incus', 'LXD'];
    await refused(`${elsewhere} --engine ${missing}`, 64, new RegExp(`only ${here} is here`));
    await refused(`true | lxstow -c ~/other/lxstow.yaml init`, 64, /no answer to: Where should backups go/);
    await refused('ls ~/other', 2, /No such file/);
    await refused('LXD_DIR=/nowhere lxstow -c ~/other/lxstow.yaml init --yes', 69, /\/nowhere\/unix\.socket/);
  });

  it('on a terminal it does not show the secret key, and Ctrl-C leaves everything as it is', onTerminal, async () => {
    const home = join(folder.path, 'home');
    const env = {
      ...folder.env,
      LXD_DIR: lxd.dir,
      HOME: home,
      PATH: `${join(folder.path, 'bin')}:${process.env.PATH}`,
    };
    const words = [...machine.enter, 'lxstow', '-c', `${home}/tty/lxstow.yaml`, 'init'];
    const { child, seen, ended } = openTerminal(words, env);
    const answer = async (question: string, text: string) => {
      await until(
        async () => seen(),
        (all) => all.includes(question),
      );
      child.stdin?.write(text);
    };
    await answer('Where should backups go?', `${endpoint}/lxstow\r`);
    await answer('Access key', 'lxstow\r');
    await answer('Secret key; it is not shown: ', 'change-me-now\r');
    await answer('Give a time, or no [03:00]: ', '\u0003');
    assert.equal(await ended, 130);
    assert.doesNotMatch(seen(), /change-me-now/);
    assert.match(seen(), /interrupted/);
    await type(`! ls ${home}/tty`);
  });

  it('undone, the backups and their keys are where it says; the page alone brings them back elsewhere', async () => {
    // A prefix that the owner has added is on the page after the next init.
    await type("sed -i 's/^  bucket: lxstow$/&\\n  prefix: berlin/' /etc/lxstow/lxstow.yaml && lxstow init --yes");
    await type('lxstow backup c1');
    const recovery = await type(`cat ${page}`);
    assert.match(recovery, /Backups are in the bucket lxstow at http:\S+, with the prefix berlin\.\n/);
    const pid = (await type('cat /var/lib/lxstow/standalone.pid')).trim();
    const old = await type('cd /etc/lxstow; ls recovery-*.md');
    const said = await type('lxstow init --undo');
    assert.match(said, /the backups: the bucket lxstow at http:\/\/127\.0\.0\.1:9000/);
    assert.match(said, /with the keys of the store: \/etc\/lxstow\/lxstow\.yaml\.undone/);
    assert.match(said, /the recovery page, with keys: \/etc\/lxstow\/recovery\.md/);
    assert.equal(
      await type(`cd /etc/lxstow; ls -A . /var/lib/lxstow; cat /proc/${pid}/cmdline 2>/dev/null | wc -c`),
      `.:\nlxstow.yaml.undone\n${old}recovery.md\n\n/var/lib/lxstow:\n0\n`,
    );
    // Of the bucket that was the store for a while, and of this one before that, and before the prefix.
    assert.equal(old.match(/recovery-/g)?.length, 3);
    assert.match(await type('cat /etc/lxstow/recovery-*.md'), /Backups are in the bucket other at/);
    assert.equal((await shell.type('lxstow init --undo')).status, 66);
    assert.match((await shell.type('lxstow remote list')).stdout, /no gateway is known/);
    await type('rm -r /etc/lxstow /var/lib/lxstow');

    await using other = await startLxd({ name: 'init-other', log: quiet });
    const home = join(folder.path, 'other-home');
    await mkdir(home);
    const [commands] = blocksOf(recovery).filter(({ language }) => language === 'sh');
    await type(commands?.text ?? 'false', { LXD_DIR: other.dir, HOME: home, XDG_CONFIG_HOME: join(home, '.config') });
    assert.match(await other.lxc(['list', '--format', 'csv', '--columns', 'ns']), /^c1,RUNNING/m);
    const marks = async (of: LabLxd) => [...(await of.fingerprint('c1'))].filter(([path]) => path.startsWith('data'));
    assert.deepEqual(await marks(other), await marks(lxd));
    await type('lxstow init --undo', { HOME: home, XDG_CONFIG_HOME: join(home, '.config') });
    assert.ok((await stat(join(folder.path, 'minio', 'lxstow'))).isDirectory());
  });

  it('takes over the state of a standalone that was set up by hand, and leaves it when it is undone', async () => {
    await type('rm -rf /etc/lxstow /var/lib/lxstow ~/.config/lxstow; mkdir ~/hand');
    const s3 = { endpoint, bucket: 'lxstow', accessKey: 'lxstow', secretKey: 'change-me-now' };
    const config = JSON.stringify({ s3, gateway: { stateDir: '/var/lib/lxstow' } });
    await type(`printf '%s' '${config}' >~/hand/lxstow.yaml`);
    const byHand = async (line: string) => {
      const ready = 'until curl -sf http://127.0.0.1:8081/readyz; do sleep 0.1; done';
      await type(`cd; lxstow -c ~/hand/lxstow.yaml standalone >>~/hand/log 2>&1 & echo $! >~/hand/pid; ${ready}`);
      const said = await type(line);
      await type('pid=$(cat ~/hand/pid); kill $pid; while grep -qs . /proc/$pid/cmdline; do sleep 0.1; done');
      return said;
    };
    const token = 'lxstow -c ~/hand/lxstow.yaml trust token me';
    await byHand(`${token} | lxstow remote add hand - && lxstow schedule create nightly --cron '0 1 * * *' --all`);
    const init = `${keys} lxstow init --yes --store ${endpoint}/lxstow --backup none`;
    assert.match(await type(init), /the schedule nightly was there before, and stays as it is; due next: \S+T01:00/);
    const no = `printf '%s\\n' '' '' '' no '' | lxstow init`;
    assert.match(await type(no), /has made no schedule/);
    assert.match(await type('lxstow init --undo'), /\/var\/lib\/lxstow, which was there before: trusted clients/);
    const { definition } = JSON.parse(await byHand('lxstow schedule show nightly --format json'));
    assert.deepEqual([definition.cron, definition.keep], ['0 1 * * *', undefined]);
    // Its own schedule, which deletes backups, does not stay.
    await byHand('lxstow schedule delete nightly && lxstow schedule create mine --cron @daily --all');
    assert.match(await type(init), /next backup of every instance: /);
    await type('lxstow init --undo');
    assert.deepEqual((await byHand('lxstow schedule list')).match(/nightly|mine/g), ['mine']);
    await type('rm -rf /etc/lxstow /var/lib/lxstow ~/.config/lxstow');
  });

  it('with systemd it starts a service, and --undo removes it', async () => {
    // Of this machine alone.
    await type('mount -t tmpfs none /run/systemd && mkdir /run/systemd/system && rm -rf /etc/lxstow /var/lib/lxstow');
    const said = await type(`${keys} lxstow init --yes --store ${endpoint}/lxstow --backup none`);
    assert.match(said, /starting lxstow-standalone\.service/);
    assert.doesNotMatch(said, /systemd does not run lxstow/);
    assert.match(await type('lxstow schedule next'), /nightly/);
    assert.match(await type('lxstow list c1'), /backup_/);
    await type('lxstow init --yes');
    await type('lxstow init --undo');
    const done = await type('cat ~/systemctl.log');
    const unit = 'lxstow-standalone.service';
    assert.equal(done, `daemon-reload\nenable ${unit}\nrestart ${unit}\ndisable --now ${unit}\ndaemon-reload\n`);
    await type(`! ls /etc/systemd/system/${unit}*`);
    await type('umount /run/systemd');
  });

  it('killed at any point, it does the rest when it is repeated', async () => {
    await type('rm -rf /etc/lxstow /var/lib/lxstow ~/.config/lxstow');
    const init = `${keys} lxstow init --yes --store ${endpoint}/lxstow --backup none`;
    const made = ['/etc/lxstow/init.json', '/etc/lxstow/lxstow.yaml', '/var/lib/lxstow/standalone.pid'];
    for (const file of [...made, '~/.config/lxstow/remotes.yml', page])
      await type(
        `${init} & until [ -e ${file} ] || ! kill -0 $!; do sleep 0.01; done; kill -9 $!; wait $! || [ -e ${file} ]`,
      );
    assert.match(await type('lxstow init --yes --backup none'), /next backup of every instance: |lxstow runs already/);
    assert.match(await type('lxstow schedule next'), /nightly/);
    assert.match(await type('lxstow list c1'), /backup_/);
    assert.match(await type(`cat ${page}`), /Backups are in the bucket lxstow/);
    assert.equal(await type('ls /etc/lxstow'), 'init.json\nlxstow.yaml\nrecovery.md\n');
    await type('lxstow init --undo');
    await type('! curl -sf http://127.0.0.1:8081/healthz && ! curl -s http://127.0.0.1:4222');
    assert.match((await shell.type('lxstow remote list')).stdout, /no gateway is known/);
  });

  const noOthers = { skip: others ? false : 'there are no user namespaces' };
  it('without root, it sets up beside the configuration of the machine', noOthers, async () => {
    const machines = 's3: { accessKey: a, secretKey: b }\n';
    await type(`rm -rf /etc/lxstow; mkdir /etc/lxstow; printf '${machines}' >/etc/lxstow/lxstow.yaml`);
    const home = join(folder.path, 'annas-home');
    await mkdir(home);
    const env = { HOME: home, XDG_CONFIG_HOME: join(home, '.config') };
    const anna = (line: string, more: NodeJS.ProcessEnv = {}) =>
      type(`${keys} unshare --user --map-user=54321 --map-group=54321 lxstow ${line}`, { ...env, ...more });
    const state = join(home, 'state');
    await anna(`init --yes --store ${endpoint}/lxstow --backup none`, { XDG_STATE_HOME: state });
    assert.match(await anna('list c1'), /backup_/);
    // Later, the environment names another state directory.
    assert.match(await anna('init --yes'), /is unchanged\nlxstow runs already/);
    const standalone = (await type(`cat ${state}/lxstow/standalone.pid`)).trim();
    await anna('init --undo');
    await type(`! grep -qs . /proc/${standalone}/cmdline`);
    assert.equal(await type('ls /etc/lxstow; cat /etc/lxstow/lxstow.yaml'), `lxstow.yaml\n${machines}`);
    await type('rm -r /etc/lxstow');
  });

  const noFolder = { skip: versityGw ? false : 'no VersityGW' };
  it('with a folder as the store, a copy of the folder and the page are enough elsewhere', noFolder, async () => {
    await type('rm -rf /etc/lxstow /var/lib/lxstow; mkdir -p ~/nas');
    const nas = join(folder.path, 'home', 'nas');
    // MinIO has the usual port.
    const said = await type(`lxstow init --yes --store ${nas}/lxstow --nightly 03:00 --keep-daily 14`);
    assert.match(said, /lxstow can be written to\n {2}(ok|warning) .* are free in /);
    assert.match(said, /warning .*lxstow is on the same disk as the storage of (LXD|Incus) \(.*\): if that disk dies/);
    assert.match(said, /^1 of 1 backed up$/m);
    const files = await lxd.fingerprint('c1');
    await lxd.lxc(['delete', '--force', 'c1']);
    await type('lxstow restore c1 latest --start');
    assert.match(await type('lxstow init --yes'), /is unchanged\nlxstow runs already/);
    const recovery = await type(`cat ${page}`);
    // What it has started lives on.
    const servers = (await type('cd /var/lib/lxstow; cut -d " " -f 1 nats/pid store/pids')).split(/\s/).filter(Boolean);
    await type('cd; kill -9 $(cat /var/lib/lxstow/standalone.pid)');
    for (const pid of servers) await type(`grep -qs . /proc/${pid}/cmdline`);
    const undone = await type('lxstow init --undo');
    assert.equal(servers.length, 2);
    for (const pid of servers) await type(`! grep -qs . /proc/${pid}/cmdline`);
    assert.match(undone, new RegExp(`the backups: the folder ${nas}/lxstow`));
    assert.match(undone, /the keys of the store's server: \/var\/lib\/lxstow\/store/);
    await type(`mv ${nas}/lxstow ${nas}/copy; rm -r /etc/lxstow /var/lib/lxstow`);
    await lxd.lxc(['delete', '--force', 'c1']);
    const home = join(folder.path, 'third-home');
    await mkdir(home);
    const env = { HOME: home, XDG_CONFIG_HOME: join(home, '.config') };
    const [commands] = blocksOf(recovery).filter(({ language }) => language === 'sh');
    await type((commands?.text ?? 'false').replace('nas/lxstow', 'nas/copy'), env);
    assert.match(await lxd.lxc(['list', '--format', 'csv', '--columns', 'ns']), /^c1,RUNNING/m);
    const data = (all: Map<string, string>) => [...all].filter(([path]) => path.startsWith('data'));
    assert.deepEqual(data(await lxd.fingerprint('c1')), data(files));
    await type('lxstow init --undo', env);
  });
});
