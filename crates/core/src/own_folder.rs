//! Folders that no other user can have put there.
//!
//! In a folder that anybody may write to, such as `/tmp`, a name that can be guessed may be taken before we come: by
//! another user's folder, whose files are exchanged between our writing and our reading, or by a symbolic link. So a
//! temporary folder has a random name and mode 0700 ([`temporary`]), and a path that the configuration or an argument
//! names is refused where another user may have put it, or a link on the way to it, there ([`check`], [`create`]).
//!
//! It does not judge folders that are nobody's common ground: who may write to those is up to whoever made them.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::errno::Errno;
use nix::unistd::geteuid;
use tempfile::TempDir;

/// Everybody may make entries (inode(7), `S_IWOTH`).
const WORLD_WRITABLE: u32 = 0o002;
/// Only its owner may rename or remove an entry (inode(7), `S_ISVTX`).
const STICKY: u32 = 0o1000;
/// Symbolic links that are followed on one way, as many as Linux follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The system's folder for temporary files: `TMPDIR`, or `/tmp`. Anybody may write to it.
pub fn system_temporary() -> PathBuf {
    tempfile::env::temp_dir()
}

/// Makes a folder of a random name in `parent` that only we can enter. It is removed when it is dropped.
pub fn temporary(parent: &Path, prefix: &str) -> io::Result<TempDir> {
    check(parent)?;
    // Without a mode of its own it would get what the umask leaves.
    tempfile::Builder::new().prefix(prefix).permissions(fs::Permissions::from_mode(0o700)).tempdir_in(parent)
}

/// Refuses `path` where another user may have put it, or something on the way to it, into a folder that anybody may
/// write to. What is not there yet is fine. Answers the path without symbolic links, as far as it is there.
/// `PermissionDenied`, with what is wrong and what to do; or the file system's own.
pub fn check(path: &Path) -> io::Result<PathBuf> {
    let us = geteuid().as_raw();
    let mut rest = reversed(&std::path::absolute(path)?);
    let (mut folder, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = rest.pop() {
        if part == ".." {
            folder.pop();
            continue;
        }
        let entry = if part == "." { folder.clone() } else { folder.join(&part) };
        let found = match fs::symlink_metadata(&entry) {
            Ok(found) => found,
            // What we cannot reach we cannot use either: that fails by itself.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => break,
            Err(error) => return Err(error),
        };
        if is_foreign(fs::symlink_metadata(&folder)?.mode(), found.uid(), us) {
            return Err(denied(format!(
                "{} belongs to user {}, and anybody may write to {}: it may be a trap; name a folder of your own",
                entry.display(),
                found.uid(),
                folder.display()
            )));
        }
        if found.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::ELOOP.into());
            }
            rest.extend(reversed(&fs::read_link(&entry)?));
        } else {
            folder = entry;
        }
    }
    Ok(folder)
}

/// Makes `path` and what is missing above it, and refuses it as [`check`] does, or where it is itself the common
/// ground of all users.
pub fn create(path: &Path) -> io::Result<()> {
    check(path)?;
    fs::create_dir_all(path)?;
    // Again, now that all of it is there: what is ours by now cannot be replaced any more.
    let real = check(path)?;
    let common = WORLD_WRITABLE | STICKY;
    if fs::metadata(&real)?.mode() & common == common {
        return Err(denied(format!("anybody may write to {}; name a folder inside it", real.display())));
    }
    Ok(())
}

/// Makes `path`, where nothing may be yet, and what is missing above it.
/// `AlreadyExists`, also for a symbolic link that leads nowhere; or the file system's own.
pub fn create_new(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::create_dir(path)
}

/// The nearest folder above `path`, or `path` itself, that anybody may write to.
pub fn shared_above(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let real = path.ancestors().find_map(|folder| folder.canonicalize().ok())?;
    real.ancestors().find(|folder| is_shared(folder)).map(Path::to_owned)
}

/// Whether anybody may write to the folder.
pub fn is_shared(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|found| found.mode() & WORLD_WRITABLE != 0)
}

/// Whether an entry of such a folder may be another user's doing: root's is not.
fn is_foreign(folder_mode: u32, owner: u32, us: u32) -> bool {
    folder_mode & WORLD_WRITABLE != 0 && owner != us && owner != 0
}

/// The parts of a path, the first one last.
fn reversed(path: &Path) -> Vec<OsString> {
    path.components().rev().map(|part| part.as_os_str().to_owned()).collect()
}

fn denied(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};

    use super::*;

    /// A user that is neither we nor root (65534 is `nobody`).
    const OTHER: u32 = 65_534;

    /// A folder like `/tmp`.
    fn common() -> (TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let common = place.path().join("tmp");
        fs::create_dir(&common).unwrap();
        fs::set_permissions(&common, fs::Permissions::from_mode(0o1777)).unwrap();
        (place, common)
    }

    /// Whether `path` could be given to another user; only root can.
    fn given_away(path: &Path) -> bool {
        let given = lchown(path, Some(OTHER), Some(OTHER)).is_ok();
        if !given {
            eprintln!("SKIPPED: only root can give {} to another user", path.display());
        }
        given
    }

    #[test]
    fn only_another_users_entry_in_a_folder_of_all_is_foreign() {
        for (mode, owner, us, expected, reason) in [
            (0o41777, 1000, 0, true, "root must not walk into it"),
            (0o41777, 1001, 1000, true, "nor any other user"),
            (0o40777, 1001, 1000, true, "without the sticky bit all the more"),
            (0o41777, 1000, 1000, false, "it is ours"),
            (0o41777, 0, 1000, false, "root could do worse anyway"),
            (0o40755, 1001, 1000, false, "nobody could have put it there uninvited"),
            (0o42775, 1001, 1000, false, "a group was let in on purpose"),
        ] {
            assert_eq!(is_foreign(mode, owner, us), expected, "{mode:o} {owner} {us}: {reason}");
        }
    }

    #[test]
    fn a_temporary_folder_is_ours_alone_has_no_name_to_guess_and_goes() {
        let (_place, common) = common();
        let (first, second) = (temporary(&common, "delayd-").unwrap(), temporary(&common, "delayd-").unwrap());
        assert_ne!(first.path(), second.path());
        let found = fs::metadata(first.path()).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid()), (0o700, geteuid().as_raw()));
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_or_a_link_that_another_user_put_there_first_is_refused() {
        let (place, common) = common();
        let target = place.path().join("target");
        fs::create_dir(&target).unwrap();
        let (folder, link) = (common.join("state"), common.join("link"));
        fs::create_dir(&folder).unwrap();
        symlink(&target, &link).unwrap();
        create(&folder).unwrap();
        assert_eq!(check(&link).unwrap(), target.canonicalize().unwrap(), "our own links are followed");
        for planted in [folder, link] {
            if !given_away(&planted) {
                return;
            }
            let roundabout = common.join("..").join("tmp").join(planted.file_name().unwrap());
            for path in [planted.clone(), planted.join("below"), roundabout] {
                let told = create(&path).unwrap_err().to_string();
                assert!(
                    told.contains(planted.file_name().unwrap().to_str().unwrap()) && told.contains("65534"),
                    "{told}"
                );
                assert!(!planted.join("below").exists(), "nothing is made in it");
            }
            assert!(temporary(&planted, "delayd-").is_err());
        }
    }

    #[test]
    fn a_link_of_ours_does_not_hide_another_users_behind_it() {
        let (place, common) = common();
        let (ours, theirs) = (place.path().join("ours"), common.join("theirs"));
        symlink(&theirs, &ours).unwrap();
        symlink(place.path(), &theirs).unwrap();
        check(&ours).unwrap();
        if given_away(&theirs) {
            check(&ours).unwrap_err();
        }
        let round = place.path().join("round");
        symlink("./round", &round).unwrap();
        assert_eq!(check(&round).unwrap_err().raw_os_error(), Some(Errno::ELOOP as i32));
    }

    #[test]
    fn the_common_ground_itself_is_no_folder_of_ours_and_one_inside_is() {
        let (_place, common) = common();
        let told = create(&common).unwrap_err().to_string();
        assert!(told.contains("name a folder inside it"), "{told}");
        let inside = common.join("state/of/ours");
        create(&inside).unwrap();
        assert_eq!(shared_above(&inside.join("not/there/yet")), Some(common.canonicalize().unwrap()));
        assert_eq!(shared_above(Path::new("/proc/self")), None);
    }

    #[test]
    fn what_must_be_new_is_not_made_where_a_link_leads_nowhere() {
        let (_place, common) = common();
        let path = common.join("staging");
        symlink(common.join("nowhere"), &path).unwrap();
        assert_eq!(create_new(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::remove_file(&path).unwrap();
        create_new(&path).unwrap();
        assert!(path.is_dir() && !common.join("nowhere").exists());
    }
}
