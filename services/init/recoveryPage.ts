/** The page that must be kept elsewhere: with it and the store, everything is restored on another machine. */
import { readFileSync } from 'node:fs';
import { readFile, rename } from 'node:fs/promises';
import { hostname } from 'node:os';
import { placeText, type Store } from './initAnswers.ts';
import { type Places, writeSecret } from './places.ts';

/** Writes the page. A page of another store is kept next to it, because it may be the last copy of that store's keys. */
export async function writePage({ page }: Places, store: Store): Promise<void> {
  const now = new Date();
  const old = await readFile(page, 'utf8').catch(() => undefined);
  if (old !== undefined && !old.includes(placeLine(store))) await rename(page, freeName(page, now));
  await writeSecret(page, recoveryPage(store, now));
}

/** `recovery.md` → `recovery-2026-11-29T0300.md` */
function freeName(page: string, now: Date): string {
  return page.replace(/\.md$/, `-${now.toISOString().slice(0, 19).replaceAll(':', '')}.md`);
}

const placeLine = (store: Store) => `Backups are in ${placeText(store)}.`;

export function recoveryPage(store: Store, written: Date): string {
  const kept =
    'folder' in store
      ? `You need this page, and the folder \`${store.folder}\` of ${hostname()} or a copy of it. It has no password: protect it as you protect the instances.`
      : 'Besides the store you need only this page. It contains the keys: keep it as you keep passwords.';
  return `# How to restore the backups of ${hostname()}

Written by \`lxstow init\` on ${written.toISOString().slice(0, 10)}. ${placeLine(store)}
Keep this page away from ${hostname()}: printed, or with your passwords. ${kept}

On another machine with LXD or Incus, initialised, install lxstow (docs/install.md). Then, as root:

\`\`\`sh
${commandsFor(store)}
lxstow list --all
lxstow restore --all --all-projects --start
\`\`\`

Projects, networks and custom volumes are not in backups: create them before the last command, which can be repeated. It restores the latest
backup of each instance; existing instances are not touched. One instance alone: \`lxstow restore NAME latest\`. A backup is an ordinary
.tar.gz in the store; \`tar\` and \`lxc import\` read it without lxstow.
`;
}

function commandsFor(store: Store): string {
  const init = (place: string) => `lxstow init --yes --store ${quoted(place)} --no-nightly --backup none`;
  if ('folder' in store) return `${init(store.folder)}    # where the folder is mounted`;
  const { endpoint, bucket, region, accessKey, secretKey, ca } = store;
  const file = 'lxstow-ca.crt';
  return [
    ...(ca === undefined ? [] : [`cat >${file} <<'END'\n${readFileSync(ca, 'utf8').trimEnd()}\nEND`]),
    `export LXSTOW_S3_ACCESS_KEY=${quoted(accessKey)} LXSTOW_S3_SECRET_KEY=${quoted(secretKey)}`,
    `${init(`${endpoint}/${bucket}`)} --region ${quoted(region)}${ca === undefined ? '' : ` --ca ${file}`}`,
    'unset LXSTOW_S3_ACCESS_KEY LXSTOW_S3_SECRET_KEY',
  ].join('\n');
}

function quoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
