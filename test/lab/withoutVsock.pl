# Runs a daemon that makes virtual machines where the kernel cannot listen for their agents (no vhost_vsock): the socket that it asks for is its
# standard input; bind and listen do nothing to that one, and accept waits. LXD and Incus end otherwise, although no machine runs: LXD panics if its
# first listener fails before it serves the next. Debian always has this perl.
use strict;

my ($programs, @command) = @ARGV;
my ($afVsock, $sockStream) = (40, 1);
my ($socket, $bind, $listen, $prctl, $accept4) = (41, 49, 50, 157, 288);    # x86_64
my ($setSeccomp, $filterMode) = (22, 2);
my ($allow, $done, $again) = (0x7fff0000, 0x00050000, 0x0005000b);    # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with 0, with EAGAIN

# struct sock_filter of linux/bpf_common.h: code, jump if true, jump if false, k. A word of struct seccomp_data is loaded, compared, or answered with.
sub load { pack 'SCCL', 0x20, 0, 0, $_[0] }
sub equals { pack 'SCCL', 0x15, $_[1], $_[2], $_[0] }
sub answer { pack 'SCCL', 0x06, 0, 0, $_[0] }
my ($number, $architecture, $first) = map { load($_) } 0, 4, 16;

close STDIN;
if (socket STDIN, $afVsock, $sockStream, 0) {
    my @filter = (
        $architecture, equals(0xc000003e, 0, 14),
        $number, equals($socket, 0, 2),
        $first, equals($afVsock, 9, 10),
        equals($accept4, 3, 0), equals($bind, 5, 0), equals($listen, 4, 0), answer($allow),
        $first, equals(0, 0, 4), answer($again),
        $first, equals(0, 0, 1), answer($done), answer($allow),
    );
    my $instructions = join '', @filter;
    my $program = pack 'S x6 P', scalar @filter, $instructions;
    syscall($prctl, $setSeccomp, $filterMode, $program) == 0 or die "no seccomp filter: $!";
    $ENV{PATH} = "$programs:$ENV{PATH}";
} else {
    open STDIN, '<', '/dev/null';
}
exec @command or die "$command[0]: $!";
